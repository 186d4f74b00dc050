use super::DbError;

/// Finds out which migrations are lacking; refuses a database that a newer program has migrated.
///
/// `applied` are the versions in the database, `known` those of this program.
pub(super) fn check(applied: &[String], known: &[String]) -> Result<(), DbError> {
    let newest_known = known.iter().max().cloned().unwrap_or_default();
    match applied
        .iter()
        .filter(|version| !known.contains(version))
        .max()
    {
        Some(found) => Err(DbError::NewerSchema {
            found: found.clone(),
            known: newest_known,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_unknown_migration_is_refused() {
        assert_eq!(check(&[], &versions(&["1"])), Ok(()));
        assert_eq!(check(&versions(&["1"]), &versions(&["1", "2"])), Ok(()));
        let newer = DbError::NewerSchema {
            found: "3".to_owned(),
            known: "2".to_owned(),
        };
        assert_eq!(
            check(&versions(&["3", "1", "2"]), &versions(&["1", "2"])),
            Err(newer)
        );
    }
}
