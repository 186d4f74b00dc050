//! Lists that come in pages.

use clap::{Args, ValueEnum};
use scitq_shared::api::Page;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::{Column, Table};
use crate::text::count;

/// Most rows asked for at once.
const PAGE_ROWS: u64 = 1000;

/// How much of a list is shown, and from which end.
#[derive(Clone, Debug, Args)]
pub struct ListArguments {
    /// Show at most this many rows; 0 shows all of them
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    pub limit: u64,
    /// Begin with the newest (desc) or with the oldest (asc)
    #[arg(long, value_name = "ORDER", default_value = "desc")]
    pub order: Order,
    /// Go on behind the row of this id
    #[arg(long, value_name = "ID")]
    pub after: Option<i64>,
}

impl ListArguments {
    /// A whole list, oldest first.
    pub fn all() -> Self {
        Self {
            limit: 0,
            order: Order::Asc,
            after: None,
        }
    }

    /// The first rows of a list from one end.
    pub fn first(limit: u64, order: Order) -> Self {
        Self {
            limit,
            order,
            after: None,
        }
    }
}

/// Which end of a list comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

impl Order {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asc => "asc",
            Self::Desc => "desc",
        }
    }
}

/// Shows a list as a table or as a JSON array, page by page, up to the limit; says when there is more.
///
/// JSON is written as the pages come; a table needs all rows before its columns have a width, so its cells are kept.
pub async fn show<T: Serialize + DeserializeOwned>(
    client: &Client,
    screen: &Screen,
    parts: &[&str],
    filter: &[(&str, String)],
    list: &ListArguments,
    columns: &[Column],
    cells: fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    let mut array = JsonArray::default();
    let mut table = Table::new(columns);
    let mut shown: u64 = 0;
    let next = fetch(client, parts, filter, list, |row: T| {
        shown += 1;
        if screen.json() {
            return screen.print_bytes(array.element(&row)?.as_bytes());
        }
        table.row(cells(&row));
        Ok(())
    })
    .await?;
    if screen.json() {
        screen.print_bytes(array.end().as_bytes())?;
    } else {
        screen.table(&table)?;
    }
    if let Some(next) = next {
        let shown = count(usize::try_from(shown).unwrap_or(usize::MAX), "row");
        screen.note(&format!(
            "{shown} shown, there are more: --limit 0 shows all, --after {next} goes on from here"
        ));
    }
    Ok(())
}

/// Gets a list page by page and gives each row to `each`. Answers the id to go on behind, when there are more rows.
pub async fn fetch<T: DeserializeOwned>(
    client: &Client,
    parts: &[&str],
    filter: &[(&str, String)],
    list: &ListArguments,
    mut each: impl FnMut(T) -> Result<(), Failure>,
) -> Result<Option<i64>, Failure> {
    let mut missing = if list.limit == 0 {
        u64::MAX
    } else {
        list.limit
    };
    let mut after = list.after;
    loop {
        let mut query = filter.to_vec();
        query.push(("limit", missing.min(PAGE_ROWS).to_string()));
        query.push(("order", list.order.as_str().to_owned()));
        query.extend(after.map(|id| ("after", id.to_string())));
        let page: Page<T> = client.get(parts, &query).await?;
        let empty = page.items.is_empty();
        missing = missing.saturating_sub(page.items.len() as u64);
        for row in page.items {
            each(row)?;
        }
        match page.next {
            // an empty page that promises more, or the same page again, would go on for ever
            Some(next) if missing > 0 && !empty && after != Some(next) => after = Some(next),
            next => return Ok(next.filter(|_| !empty)),
        }
    }
}

/// Writes a JSON array element by element, in the form of `serde_json::to_string_pretty`.
#[derive(Debug, Default)]
struct JsonArray {
    begun: bool,
}

impl JsonArray {
    fn element<T: Serialize>(&mut self, value: &T) -> Result<String, Failure> {
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::local(format!("cannot write JSON: {error}")))?;
        let before = if std::mem::replace(&mut self.begun, true) {
            ",\n"
        } else {
            "[\n"
        };
        Ok(format!("{before}  {}", json.replace('\n', "\n  ")))
    }

    fn end(self) -> &'static str {
        if self.begun { "\n]\n" } else { "[]\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_in_pieces_looks_like_one_at_once() {
        for values in [vec![], vec![vec![1, 2]], vec![vec![], vec![3], vec![4]]] {
            let mut array = JsonArray::default();
            let mut text: String = values
                .iter()
                .map(|value| array.element(value).unwrap())
                .collect();
            text.push_str(array.end());
            assert_eq!(
                text,
                format!("{}\n", serde_json::to_string_pretty(&values).unwrap())
            );
        }
    }
}
