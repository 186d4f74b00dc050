//! Which user a task runs as.

use std::ffi::OsString;
use std::fs;

use scitq_shared::execution::FailureReason;

use super::StartFailure;

/// Group of a user that `/etc/passwd` does not know, when the task names none: nobody's.
const NO_GROUP: u32 = 65_534;

/// Another identity than the worker's own, to be taken before the command is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: Option<OsString>,
}

/// What has to be changed for a task that asks for these ids; none when the worker is that already.
pub(crate) fn switch(uid: Option<u32>, gid: Option<u32>) -> Result<Option<Switch>, StartFailure> {
    let (own_user, own_group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if uid.is_none_or(|uid| uid == own_user) && gid.is_none_or(|gid| gid == own_group) {
        return Ok(None);
    }
    if own_user != 0 {
        let asked = match (uid, gid) {
            (Some(uid), Some(gid)) => format!("user {uid} and group {gid}"),
            (Some(uid), None) => format!("user {uid}"),
            (None, _) => format!("group {}", gid.unwrap_or(own_group)),
        };
        let detail = format!(
            "the task asks to run as {asked}, but this worker runs as user {own_user} and only a worker of root can change \
             that; start the worker as root or submit the task without uid and gid"
        );
        // Not the worker's fault: it is as it was set up, and will never be able to.
        return Err(StartFailure::new(FailureReason::Unsupported, detail));
    }
    let target = uid.unwrap_or(own_user);
    let known = passwd(target);
    let gid = gid
        .or(known.as_ref().map(|user| user.0))
        .unwrap_or(NO_GROUP);
    Ok(Some(Switch {
        uid: target,
        gid,
        home: known.map(|user| user.1),
    }))
}

/// Group and home of a user, by `/etc/passwd`.
fn passwd(uid: u32) -> Option<(u32, OsString)> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| entry(line, uid))
}

fn entry(line: &str, uid: u32) -> Option<(u32, OsString)> {
    let mut fields = line.split(':').skip(2);
    let found: u32 = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    (found == uid).then(|| (gid, home.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        assert_eq!(
            entry(
                "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
                65_534
            ),
            Some((65_534, "/nonexistent".into()))
        );
        assert_eq!(entry("root:x:0:0:root:/root:/bin/bash", 1), None);
        assert_eq!(entry("# damaged", 0), None);
    }

    #[test]
    fn ones_own_ids_need_no_change() {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        assert_eq!(switch(None, None), Ok(None));
        assert_eq!(switch(Some(uid), Some(gid)), Ok(None));
    }
}
