use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::db::PageRequest;

use super::ApiError;

/// Most rows of one page.
const MAX_LIMIT: i64 = 1000;
/// Rows of a page when the request says nothing.
const DEFAULT_LIMIT: i64 = 100;

/// The parameters of a request's query, each known by name; one that is not known is an error that names it.
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query string.
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut pairs = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let rule = format!(
                    "is not a parameter of this request (known: {})",
                    known.join(", ")
                );
                return Err(ApiError::field(name, rule));
            }
            if value.contains('\0') {
                return Err(ApiError::field(name, "must not contain NUL"));
            }
            if pairs.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(ApiError::field(name, "is given twice"));
            }
        }
        Ok(Self(pairs))
    }

    /// A text; empty counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// An integer within a range.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                let rule = format!(
                    "must be a number between {} and {}, not {text:?}",
                    range.start(),
                    range.end()
                );
                Err(ApiError::field(name, rule))
            }
        }
    }

    /// Values separated by commas.
    pub(super) fn list<T: FromStr>(&self, name: &str) -> Result<Vec<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(name).unwrap_or_default();
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words
            .map(|word| {
                word.parse()
                    .map_err(|error| ApiError::field(name, format!("cannot be read: {error}")))
            })
            .collect()
    }

    /// true or false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(ApiError::field(
                name,
                format!("must be true or false, not {other:?}"),
            )),
        }
    }

    /// `after`, `limit` and `order`.
    pub(super) fn page(&self) -> Result<PageRequest, ApiError> {
        let limit = self
            .integer("limit", 1..=MAX_LIMIT)?
            .unwrap_or(DEFAULT_LIMIT);
        let descending = match self.text("order").as_deref() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(other) => {
                return Err(ApiError::field(
                    "order",
                    format!("must be asc or desc, not {other:?}"),
                ));
            }
        };
        Ok(PageRequest {
            after: self.integer("after", 0..=i64::MAX)?,
            limit: usize::try_from(limit).unwrap_or(1),
            descending,
        })
    }
}

/// An id in a path.
pub(super) fn id(what: &str, text: &str) -> Result<i64, ApiError> {
    match text.parse() {
        Ok(id) if id >= 1 => Ok(id),
        _ => Err(ApiError::field(
            what,
            format!("must be a number, 1 or more, not {text:?}"),
        )),
    }
}

/// Makes a page of rows, one more than asked for having been read to see whether there is a next page.
pub(super) fn page_of<T>(
    mut items: Vec<T>,
    limit: usize,
    key: impl Fn(&T) -> i64,
) -> scitq_shared::api::Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(key) } else { None };
    scitq_shared::api::Page { items, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_parameter() {
        let known = ["limit", "order", "after", "status"];
        let error =
            |query: &str| match Params::parse(query, &known).and_then(|params| params.page()) {
                Err(error) => error.to_string(),
                Ok(page) => panic!("{page:?}"),
            };
        assert_eq!(
            error("limt=1"),
            "limt is not a parameter of this request (known: limit, order, after, status)"
        );
        assert_eq!(
            error("limit=0"),
            "limit must be a number between 1 and 1000, not \"0\""
        );
        assert_eq!(
            error("limit=x"),
            "limit must be a number between 1 and 1000, not \"x\""
        );
        assert_eq!(error("order=up"), "order must be asc or desc, not \"up\"");
        assert_eq!(error("limit=1&limit=2"), "limit is given twice");
        let params = Params::parse("status=a,%20b,", &known).unwrap();
        assert_eq!(params.list::<String>("status").unwrap(), ["a", "b"]);
    }

    #[test]
    fn pages_say_whether_there_is_more() {
        let page = page_of(vec![1, 2, 3], 2, |n| *n);
        assert_eq!((page.items, page.next), (vec![1, 2], Some(2)));
        assert_eq!(page_of(vec![1, 2], 2, |n| *n).next, None);
    }
}
