//! Conditions of lists that diesel's own language lacks. Their text does not depend on the data, so that statements
//! with them are prepared once.

use diesel::QueryResult;
use diesel::expression::{
    AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate,
};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Bool, Text};

use super::{Backend, dialect};
use crate::db::PageRequest;
use crate::db::rows::{IdRow, WordRow};
use crate::db::value::{text, to_json};

/// Lets a condition stand in any filter; the columns that it names must be there.
macro_rules! condition {
    ($name:ident) => {
        impl Expression for $name {
            type SqlType = Bool;
        }
        impl<Source> AppearsOnTable<Source> for $name {}
        impl<Source> SelectableExpression<Source> for $name {}
        impl<Grouping> ValidGrouping<Grouping> for $name {
            type IsAggregate = is_aggregate::Never;
        }
        impl QueryId for $name {
            type QueryId = ();
            const HAS_STATIC_QUERY_ID: bool = false;
        }
    };
}

/// True where a column holds one of these ids or words, any number of which are one parameter.
#[derive(Debug)]
pub(super) enum Among {
    /// Ids.
    Ids(&'static str, String),
    /// Words.
    Words(&'static str, String),
}

condition!(Among);

impl Among {
    /// The column holds one of the ids.
    pub(super) fn ids(column: &'static str, ids: impl IntoIterator<Item = i64>) -> Self {
        Self::Ids(
            column,
            to_json(&ids.into_iter().map(|id| IdRow { id }).collect::<Vec<_>>()),
        )
    }

    /// The column holds one of the words.
    pub(super) fn words<T: ToString>(
        column: &'static str,
        words: impl IntoIterator<Item = T>,
    ) -> Self {
        let words = words.into_iter().map(|word| WordRow {
            word: text(&word.to_string()),
        });
        Self::Words(column, to_json(&words.collect::<Vec<_>>()))
    }
}

impl QueryFragment<Backend> for Among {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Backend>) -> QueryResult<()> {
        let (column, value, array, (before, behind)) = match self {
            Self::Ids(column, array) => (column, "id", array, dialect::unfold::<IdRow>()),
            Self::Words(column, array) => (column, "word", array, dialect::unfold::<WordRow>()),
        };
        out.push_sql(column);
        out.push_sql(" IN (SELECT r.");
        out.push_sql(value);
        out.push_sql(" FROM ");
        out.push_sql(before.as_ref());
        out.push_bind_param::<Text, _>(array)?;
        out.push_sql(behind.as_ref());
        out.push_sql(")");
        Ok(())
    }
}

/// True for the first ids of a page in each of several statuses. An index on (batch, status, id) or (status, id) has
/// each status in the order of ids, but not several together: this reads at most one page from each.
#[derive(Debug)]
pub(super) struct FirstOfEach {
    table: &'static str,
    column: &'static str,
    words: Vec<&'static str>,
    batch: Option<String>,
    after: Option<i64>,
    descending: bool,
    limit: i64,
}

condition!(FirstOfEach);

impl FirstOfEach {
    /// Of the rows of `table` whose `column` is one of `words`, and that are of this batch.
    pub(super) fn new(
        table: &'static str,
        column: &'static str,
        words: &[&'static str],
        batch: Option<&str>,
        page: &PageRequest,
    ) -> Self {
        Self {
            table,
            column,
            words: words.to_vec(),
            batch: batch.map(text),
            after: page.after,
            descending: page.descending,
            limit: i64::try_from(page.limit).unwrap_or(i64::MAX),
        }
    }
}

impl QueryFragment<Backend> for FirstOfEach {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Backend>) -> QueryResult<()> {
        out.push_identifier(self.table)?;
        out.push_sql(".id IN (");
        for (place, word) in self.words.iter().enumerate() {
            out.push_sql(if place == 0 {
                "SELECT id FROM (SELECT id FROM "
            } else {
                " UNION ALL SELECT id FROM (SELECT id FROM "
            });
            out.push_identifier(self.table)?;
            out.push_sql(" WHERE ");
            out.push_identifier(self.column)?;
            out.push_sql(" = ");
            out.push_bind_param::<Text, _>(*word)?;
            if let Some(batch) = &self.batch {
                out.push_sql(" AND batch = ");
                out.push_bind_param::<Text, _>(batch)?;
            }
            if let Some(after) = &self.after {
                out.push_sql(if self.descending {
                    " AND id < "
                } else {
                    " AND id > "
                });
                out.push_bind_param::<BigInt, _>(after)?;
            }
            out.push_sql(if self.descending {
                " ORDER BY id DESC LIMIT "
            } else {
                " ORDER BY id LIMIT "
            });
            out.push_bind_param::<BigInt, _>(&self.limit)?;
            out.push_sql(") AS one");
        }
        out.push_sql(")");
        Ok(())
    }
}
