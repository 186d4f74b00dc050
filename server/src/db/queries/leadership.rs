use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use scitq_shared::ids::Epoch;

use super::restoration::was_overtaken;
use super::statement::Statement;
use super::transaction::transaction;
use super::{Conn, Pool, dialect};
use crate::db::DbError;

#[derive(diesel::QueryableByName)]
struct EpochRow {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Refuses the transaction when another server leads, and keeps others from taking over until its end.
pub(super) async fn fence(conn: &mut Conn, epoch: Epoch) -> Result<(), DbError> {
    let statement =
        Statement::new("SELECT epoch FROM leadership WHERE id = 1").sql(dialect::FOR_SHARE);
    match statement.read::<EpochRow>(conn).await?.pop() {
        Some(row) if row.epoch == epoch.0 => Ok(()),
        Some(_) => Err(DbError::Fenced),
        None => Err(DbError::Corrupt {
            reason: "the table leadership is empty".to_owned(),
        }),
    }
}

pub(in crate::db) async fn take_leadership(
    pool: &Pool,
    leader: &str,
    later_than: Epoch,
) -> Result<Epoch, DbError> {
    transaction!(pool, |conn| take(conn, leader, later_than))
}

async fn take(conn: &mut Conn, leader: &str, later_than: Epoch) -> Result<Epoch, DbError> {
    let statement = Statement::new("UPDATE leadership SET epoch = 1 + CASE WHEN epoch < ")
        .number(later_than.0)
        .sql(" THEN ")
        .number(later_than.0)
        .sql(" ELSE epoch END, leader = ")
        .text(leader)
        .sql(", since = ")
        .sql(dialect::NOW)
        .sql(" WHERE id = 1 RETURNING epoch");
    let Some(row) = statement.read::<EpochRow>(conn).await?.pop() else {
        return Err(DbError::Corrupt {
            reason: "the table leadership is empty".to_owned(),
        });
    };
    if row.epoch == later_than.0 + 1 {
        was_overtaken(conn, Epoch(row.epoch)).await?;
    }
    Ok(Epoch(row.epoch))
}

pub(in crate::db) async fn epoch(pool: &Pool) -> Result<Epoch, DbError> {
    let mut conn = pool.reader().await?;
    let statement = Statement::new("SELECT epoch FROM leadership WHERE id = 1");
    match statement.read::<EpochRow>(&mut conn).await?.pop() {
        Some(row) => Ok(Epoch(row.epoch)),
        None => Err(DbError::Corrupt {
            reason: "the table leadership is empty".to_owned(),
        }),
    }
}

pub(in crate::db) async fn ping(pool: &Pool) -> Result<(), DbError> {
    let mut conn = pool.reader().await?;
    diesel::select(diesel::dsl::sql::<BigInt>("1"))
        .execute(&mut *conn)
        .await?;
    Ok(())
}
