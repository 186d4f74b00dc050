//! Output: while it comes, when it is too long, when the broker does not take it.

use std::time::Duration;

use scitq_broker::Message;
use scitq_broker::topology::{EVENTS_EXCHANGE, OUTPUT_QUEUE};
use scitq_shared::output::{Stream, StreamEnd};

use super::server::{Heard, definition, script};
use super::site::Site;

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn output_is_seen_while_the_task_runs() {
    let site = Site::start(1, 0).await;
    let step = |number: u32| {
        format!("echo step {number}; while ! test -e ../go{number}; do sleep 0.02; done; ")
    };
    let task = site
        .server
        .dispatch(script(&format!("{}{}echo end >&2", step(1), step(2))))
        .await;
    for number in 1..=2usize {
        let expected = ["step 1\n", "step 1\nstep 2\n"][number - 1];
        let seen = |heard: &Heard| {
            let attempt = heard.reports("started").first()?.attempt;
            (heard.text(attempt, Stream::Stdout) == expected.as_bytes()).then_some(())
        };
        site.server.until(expected, seen).await;
        assert!(site.server.heard.lock().unwrap().ended(task).is_none());
        std::fs::write(site.work().join(format!("go{number}")), "").unwrap();
    }
    let report = site.server.until_applied(task).await;
    assert_eq!(
        report.stderr,
        Some(StreamEnd {
            length: 4,
            cut: None
        })
    );
}

#[tokio::test]
async fn a_very_long_stream_is_cut_in_the_middle_without_filling_memory_or_disk() {
    let mut site = Site::without_worker(1, 0).await;
    site.start_worker(|options| options.stream_cap_bytes = 4 * MIB + 1)
        .await;
    // A counter in every line, so that each byte's place is known.
    let lines = 6_000_000u64;
    let task = site
        .server
        .dispatch(definition(&format!("seq -f %010.0f {lines}")))
        .await;
    let report = site.server.until_applied(task).await;
    let end = report.stdout.unwrap();
    assert_eq!(end, StreamEnd::of(lines * 11, 4 * MIB + 1));
    let cut = end.cut.unwrap();
    let heard = site.server.heard.lock().unwrap();
    let pieces = &heard.output[&(report.attempt, Stream::Stdout)];
    assert_eq!(
        pieces.values().map(|piece| piece.len() as u64).sum::<u64>(),
        4 * MIB + 1 + MIB / 2,
        "the cap, and an eighth of it"
    );
    for (offset, piece) in pieces {
        let piece_end = offset + piece.len() as u64;
        assert!(
            piece_end <= cut.from || *offset >= cut.to,
            "{offset} lies in what is cut"
        );
        if piece.len() < 2000 {
            continue;
        }
        let first_line = offset.div_ceil(11);
        for line in [first_line, first_line + 100, (piece_end / 11) - 2] {
            let at = usize::try_from(line * 11 - offset).unwrap();
            assert_eq!(
                piece[at..at + 11],
                *format!("{:010}\n", line + 1).as_bytes(),
                "line {line}"
            );
        }
    }
}

#[tokio::test]
async fn the_disk_space_of_what_will_be_cut_is_given_back_while_the_task_writes() {
    let mut site = Site::without_worker(1, 0).await;
    site.start_worker(|options| options.stream_cap_bytes = MIB)
        .await;
    let task = site
        .server
        .dispatch(script(
            "head -c 200000000 /dev/zero | tr '\\0' x; while ! test -e ../go; do sleep 0.05; done",
        ))
        .await;
    let started = site
        .server
        .until("its start", |heard| {
            heard.reports("started").into_iter().next()
        })
        .await;
    let file = site
        .state()
        .join("attempts")
        .join(started.attempt.to_string())
        .join("stdout");
    let given_back = async {
        use std::os::unix::fs::MetadataExt as _;
        loop {
            let metadata = std::fs::metadata(&file);
            if metadata.is_ok_and(|it| it.len() == 200_000_000 && it.blocks() * 512 < 50_000_000) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), given_back)
        .await
        .expect("most of the file is a hole");
    std::fs::write(site.work().join("go"), "").unwrap();
    let report = site.server.until_applied(task).await;
    assert_eq!(report.stdout, Some(StreamEnd::of(200_000_000, MIB)));
    let heard = site.server.heard.lock().unwrap();
    let all = heard.output[&(report.attempt, Stream::Stdout)]
        .values()
        .flatten();
    assert!(
        all.clone().count() as u64 == MIB + MIB / 8 && all.into_iter().all(|byte| *byte == b'x'),
        "nothing kept is a hole"
    );
}

#[tokio::test]
async fn output_that_was_under_way_when_a_connection_broke_is_sent_again() {
    let site = Site::start(1, 0).await;
    let task = site.server.dispatch(script("head -c 3000000 /dev/urandom | tee ../copy; while ! test -e ../go; do sleep 0.05; done")).await;
    let begun = |heard: &Heard| {
        let attempt = heard.reports("started").first()?.attempt;
        (heard.received(attempt, Stream::Stdout) > 0).then_some(attempt)
    };
    let attempt = site.server.until("some of it", begun).await;
    site.local.cut_connections();
    site.server.until_hello(2).await;
    site.local.cut_connections();
    std::fs::write(site.work().join("go"), "").unwrap();
    site.server.until_applied(task).await;
    let copy = std::fs::read(site.work().join("copy")).unwrap();
    let heard = site.server.heard.lock().unwrap();
    assert!(copy.len() == 3_000_000 && heard.text(attempt, Stream::Stdout) == copy);
}

#[tokio::test]
async fn a_task_that_cuts_its_own_output_harms_nobody() {
    let site = Site::start(1, 0).await;
    let task = site.server.dispatch(script("echo 1234567890; while ! test -e ../go; do sleep 0.05; done; truncate -s 3 /proc/$$/fd/1; echo end >&2")).await;
    let begun = |heard: &Heard| {
        let attempt = heard.reports("started").first()?.attempt;
        (heard.received(attempt, Stream::Stdout) == 11).then_some(attempt)
    };
    site.server.until("its output", begun).await;
    std::fs::write(site.work().join("go"), "").unwrap();
    let report = site.server.until_applied(task).await;
    assert_eq!(report.stdout.unwrap().length, 11, "what was sent stays");
}

#[tokio::test]
async fn a_full_output_queue_holds_up_nothing_and_loses_nothing() {
    let mut site = Site::without_worker(1, 0).await;
    site.server.heard.lock().unwrap().read_output = false;
    site.server.listen();
    // Filled with messages that share their bytes: the broker counts them, the machine hardly does.
    let connection = site.broker.connect("filler").await.unwrap();
    let channel = connection.channel().await.unwrap();
    let filling = bytes::Bytes::from(vec![0; 1024 * 1024]);
    let full = || async {
        let message = Message::new(EVENTS_EXCHANGE, "output.filling", filling.clone());
        let confirmation = channel.publish(message).await.unwrap();
        // One that is taken is confirmed when somebody reads it: here, never.
        tokio::time::timeout(Duration::from_millis(20), confirmation)
            .await
            .is_ok_and(|outcome| outcome.is_err())
    };
    while !full().await {}
    site.start_worker(|_| {}).await;
    let mut tasks = Vec::new();
    for _ in 0..5 {
        tasks.push(
            site.server
                .dispatch(script("head -c 300000 /dev/urandom | tee -a ../copy"))
                .await,
        );
    }
    for task in &tasks {
        site.server.until_ended(*task).await;
    }
    while let Some(delivery) = channel.get(OUTPUT_QUEUE).await.unwrap() {
        assert!(
            delivery.body.len() == filling.len(),
            "output got into the full queue"
        );
        channel.ack(delivery.tag).await.unwrap();
    }
    site.server.heard.lock().unwrap().read_output = true;
    site.server.listen();
    let mut all = Vec::new();
    for task in tasks {
        let report = site.server.until_applied(task).await;
        all.extend(
            site.server
                .heard
                .lock()
                .unwrap()
                .text(report.attempt, Stream::Stdout),
        );
    }
    assert_eq!(all, std::fs::read(site.work().join("copy")).unwrap());
}
