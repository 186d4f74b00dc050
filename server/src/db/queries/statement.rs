use std::borrow::Cow;

use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Text, Untyped};
use diesel::{QueryResult, QueryableByName};
use diesel_async::RunQueryDsl;

use super::{Backend, Conn, dialect};
use crate::db::DbError;
use crate::db::rows::{BulkRow, batches};
use crate::db::value;

/// A statement as text with parameters, for what diesel's own language lacks. Unlike `sql_query` it is prepared once
/// per connection, which only statements may be whose text does not depend on the data.
#[derive(Debug)]
pub(super) struct Statement {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Sql(Cow<'static, str>),
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

impl Statement {
    /// Begins a statement.
    pub(super) fn new(sql: impl Into<Cow<'static, str>>) -> Self {
        Self { parts: Vec::new() }.sql(sql)
    }

    fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// More of its text.
    pub(super) fn sql(self, sql: impl Into<Cow<'static, str>>) -> Self {
        self.part(Part::Sql(sql.into()))
    }

    /// A text as parameter.
    pub(super) fn text(self, text: &str) -> Self {
        self.part(Part::Text(value::text(text)))
    }

    /// A number as parameter.
    pub(super) fn number(self, number: i64) -> Self {
        self.part(Part::Number(number))
    }

    /// Bytes as parameter.
    pub(super) fn bytes(self, bytes: Vec<u8>) -> Self {
        self.part(Part::Bytes(bytes))
    }

    /// The FROM item `r`: rows out of one parameter, a JSON array made by [`batches`].
    pub(super) fn rows<R: BulkRow>(self, array: String) -> Self {
        let (before, behind) = dialect::unfold::<R>();
        self.sql(before).part(Part::Text(array)).sql(behind)
    }

    /// Executes it; answers how many rows it touched.
    pub(super) async fn run(self, conn: &mut Conn) -> Result<usize, DbError> {
        Ok(self.execute(conn).await?)
    }

    /// Executes it and reads its rows.
    pub(super) async fn read<T>(self, conn: &mut Conn) -> Result<Vec<T>, DbError>
    where
        T: QueryableByName<Backend> + Send + 'static,
    {
        Ok(self.load(conn).await?)
    }
}

/// Executes one statement for any number of rows, in as many pieces as it takes: `make` is given each piece's JSON.
/// Answers how many rows were touched.
pub(super) async fn run_for<R: BulkRow>(
    conn: &mut Conn,
    rows: &[R],
    make: impl Fn(String) -> Statement,
) -> Result<usize, DbError> {
    let mut touched = 0;
    for array in batches(rows) {
        touched += make(array).run(conn).await?;
    }
    Ok(touched)
}

/// Like [`run_for`], and reads the rows that the statement answers.
pub(super) async fn read_for<R: BulkRow, T>(
    conn: &mut Conn,
    rows: &[R],
    make: impl Fn(String) -> Statement,
) -> Result<Vec<T>, DbError>
where
    T: QueryableByName<Backend> + Send + 'static,
{
    let mut answers = Vec::new();
    for array in batches(rows) {
        answers.extend(make(array).read::<T>(conn).await?);
    }
    Ok(answers)
}

impl QueryFragment<Backend> for Statement {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Backend>) -> QueryResult<()> {
        for part in &self.parts {
            match part {
                Part::Sql(sql) => out.push_sql(sql),
                Part::Text(text) => out.push_bind_param::<Text, _>(text)?,
                Part::Number(number) => out.push_bind_param::<BigInt, _>(number)?,
                Part::Bytes(bytes) => out.push_bind_param::<Binary, _>(bytes)?,
            }
        }
        Ok(())
    }
}

impl QueryId for Statement {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement {
    type SqlType = Untyped;
}
