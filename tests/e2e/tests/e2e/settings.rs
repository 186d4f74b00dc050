//! Settings of all programs: where they come from, and what is told about wrong ones.

use std::process::Command;

use scitq_e2e::{Ctl, binary};

/// A program with these arguments and variables, run to its end: exit code, and both streams as one text.
fn run(program: &str, words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(binary(program));
    command
        .env_clear()
        .args(words)
        .envs(variables.iter().copied());
    let output = command.output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_wrong_setting_names_key_and_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.toml");
    let file = file.to_str().expect("text");
    let data = directory.path().join("data");
    let data = data.to_str().expect("text");
    let programs: [(&str, &[&str]); 4] = [
        ("scitq-ctl", &["config", "show"]),
        (
            "scitq-ctl",
            &["up", "--listen", "127.0.0.1:0", "--data-dir", data],
        ),
        ("scitq-server", &[]),
        ("scitq-worker", &[]),
    ];
    for (program, words) in programs {
        let words = [words, &["--config", file]].concat();
        // text of the file; what is told
        let table: [(&str, &[&str]); 6] = [
            (
                "[server]\nlisten_on = 1\n",
                &["server.listen_on", "wrong.toml", "http_threads"],
            ),
            (
                "[sever]\nlisten = ''\n",
                &["sever", "wrong.toml", "database"],
            ),
            (
                "[worker]\nconcurrency = 'many'\n",
                &["worker.concurrency", "wrong.toml"],
            ),
            (
                "[worker]\nname = 'a/b'\n",
                &["worker.name", "wrong.toml", "'/'"],
            ),
            (
                "[database]\npool_size = 0\n",
                &["database.pool_size", "wrong.toml", "between 2 and 100"],
            ),
            ("= broken", &["wrong.toml", "TOML"]),
        ];
        for (text, parts) in table {
            std::fs::write(file, text).expect("a file");
            let (code, told) = run(program, &words, &[]);
            assert!(
                code.is_some_and(|code| code != 0),
                "{program} {words:?}: {code:?} {told}"
            );
            for part in parts {
                assert!(told.contains(part), "{program}: {part:?} in {told}");
            }
            assert!(!told.contains("panicked"), "{program}: {told}");
        }
        std::fs::write(file, "").expect("a file");
        let variables: [(&str, &str, &[&str]); 3] = [
            (
                "SCITQ_WORKER_COLOUR",
                "red",
                &["worker.colour", "SCITQ_WORKER_COLOUR"],
            ),
            ("SCITQ_COLOUR", "red", &["colour", "SCITQ_COLOUR"]),
            (
                "SCITQ_WORKER_PREFETCH",
                "many",
                &["worker.prefetch", "SCITQ_WORKER_PREFETCH", "number"],
            ),
        ];
        for (name, value, parts) in variables {
            let (code, told) = run(program, &words, &[(name, value)]);
            assert!(
                code.is_some_and(|code| code != 0),
                "{program} {name}: {code:?} {told}"
            );
            for part in parts {
                assert!(told.contains(part), "{program}: {part:?} in {told}");
            }
        }
        std::fs::remove_file(file).expect("a file");
        let (code, told) = run(program, &words, &[]);
        assert!(
            code.is_some_and(|code| code != 0),
            "{program}: {code:?} {told}"
        );
        assert!(told.contains("wrong.toml"), "{program}: {told}");
    }
}

#[test]
fn an_address_that_cannot_be_used_hides_its_password() {
    let table: [(&str, &str, &str, &[&str]); 4] = [
        (
            "scitq-server",
            "SCITQ_BROKER_URL",
            "http://u:s3cret@h/",
            &["amqp", "broker"],
        ),
        (
            "scitq-worker",
            "SCITQ_BROKER_URL",
            "http://u:s3cret@h/",
            &["amqp", "broker"],
        ),
        (
            "scitq-server",
            "SCITQ_DATABASE_URL",
            "mysql://u:s3cret@h/d",
            &["postgres", "database"],
        ),
        (
            "scitq-server",
            "SCITQ_SERVER_LISTEN",
            "everywhere",
            &["server.listen", "SCITQ_SERVER_LISTEN"],
        ),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().to_str().expect("text");
    let file = directory.path().join("empty.toml");
    std::fs::write(&file, "").expect("a file");
    let words = ["--config", file.to_str().expect("text")];
    for (program, name, value, parts) in table {
        let listen = ("SCITQ_SERVER_LISTEN", "127.0.0.1:0");
        let state = [
            ("SCITQ_WORKER_STATE_DIRECTORY", state),
            ("SCITQ_WORKER_WORK_DIRECTORY", state),
        ];
        let (code, told) = run(
            program,
            &words,
            &[listen, state[0], state[1], (name, value)],
        );
        assert_eq!(code, Some(1), "{program} {name}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
        for part in parts {
            assert!(told.contains(part), "{program}: {part:?} in {told}");
        }
    }
}

#[test]
fn a_taken_address_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("empty.toml");
    std::fs::write(&file, "").expect("a file");
    let words = [
        "--config",
        file.to_str().expect("text"),
        "--listen",
        &address,
    ];
    let (code, told) = run("scitq-server", &words, &[]);
    assert_eq!(code, Some(1), "{told}");
    for part in [&address, "in use", "--listen"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
}

#[tokio::test]
async fn config_show_masks_secrets_and_names_origins() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("my.toml");
    let text = "[broker]\nurl = 'amqp://u:s3cret-1@rabbit:5672/%2f'\n[server]\nhttp_threads = 3\n";
    std::fs::write(&file, text).expect("a file");
    let path = file.to_str().expect("text");
    let show = |words: &[&str]| {
        Ctl::new(["config", "show", "--config", path].iter().chain(words))
            .variable("SCITQ_DATABASE_URL", "postgres://u:s3cret-2@pg/d")
            .variable("SCITQ_WORKER_PREFETCH", "7")
    };
    let table = show(&[]).run().await.code(0).text();
    let json = show(&["-o", "json"]).run().await.code(0);
    for shown in [&table, &json.text()] {
        assert!(!shown.contains("s3cret"), "{shown}");
        for part in [
            "rabbit:5672",
            "pg/d",
            "my.toml",
            "SCITQ_DATABASE_URL",
            "SCITQ_WORKER_PREFETCH",
        ] {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
    }
    let json = json.json();
    assert_eq!(json["settings"]["server"]["http_threads"], 3);
    assert_eq!(json["settings"]["worker"]["prefetch"], 7);
    assert_eq!(
        json["settings"]["worker"]["heartbeat_seconds"], 5,
        "a built-in default"
    );
}
