//! The fixtures themselves, against the real services.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::time::{Duration, Instant};

use scitq_testkit::{LocalTcpProxy, Postgres, RabbitMq, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[test]
fn ports_are_free_and_differ() {
    let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
    let different: std::collections::HashSet<&u16> = ports.iter().collect();
    assert_eq!(different.len(), ports.len());
    assert!(std::net::TcpListener::bind(("127.0.0.1", ports[49])).is_ok());
}

/// The first bytes of an AMQP conversation: the broker answers a greeting with a method frame.
async fn speaks_amqp(address: std::net::SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return false;
    };
    if stream.write_all(b"AMQP\x00\x00\x09\x01").await.is_err() {
        return false;
    }
    let mut first = [0];
    matches!(stream.read_exact(&mut first).await, Ok(1)) && first == [1]
}

async fn knows_vhost(node: &RabbitMq) -> bool {
    let answer = node.evaluate("rabbit_vhost:exists(<<\"test1\">>).").await;
    assert!(
        answer == "{ok, true}" || answer == "{ok, false}",
        "{answer}"
    );
    answer == "{ok, true}"
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_starts_restarts_and_goes() {
    let began = Instant::now();
    let node = RabbitMq::start().await;
    println!("started in {:?}", began.elapsed());
    assert!(speaks_amqp(node.address()).await);

    let began = Instant::now();
    let url = node.vhost().await;
    println!("vhost in {:?}", began.elapsed());
    assert!(url.ends_with("/test1"), "{url}");
    let known = knows_vhost(&node).await;
    assert!(known);

    node.kill().await;
    assert!(!speaks_amqp(node.address()).await);
    node.restart().await;
    let known = knows_vhost(&node).await;
    assert!(known, "data stays over a crash");

    node.wipe().await;
    node.restart().await;
    let known = knows_vhost(&node).await;
    assert!(!known, "wiped");

    let address = node.address();
    drop(node);
    assert!(!speaks_amqp(address).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_starts_restarts_and_goes() {
    let server = Postgres::start().await;
    let first = server.database().await;
    let second = server.database().await;
    assert_ne!(first, second);
    assert_eq!(
        server.execute(&first, "SELECT 1, current_database()").await,
        "1|test1"
    );
    let copy = server.database_from("test1").await;
    assert!(copy.ends_with("/test3"), "{copy}");

    let port: u16 = server
        .url()
        .split(':')
        .nth(2)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    server.kill().await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    server.restart().await;
    server.database().await;
    server.stop().await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    server.restart().await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    server.database_from("test1").await;
    server.wipe().await;
    server.restart().await;
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    let starts = log.matches("ready to accept connections").count();
    assert_eq!(starts, 4, "the log goes on over restarts:\n{log}");
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

/// The number of the segment of shared memory that a server in this directory has made, while it runs.
fn shared_memory(server: &Postgres) -> String {
    let file = server.log_file().with_file_name("data/postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().nth(6).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn is_there(segment: &str) -> bool {
    let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    all.lines()
        .any(|line| line.split_whitespace().nth(1) == Some(segment))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_leaves_no_shared_memory() {
    let server = Postgres::start().await;
    let segment = shared_memory(&server);
    assert!(is_there(&segment));
    server.kill().await;
    assert!(is_there(&segment), "a kill leaves it");
    drop(server);
    assert!(!is_there(&segment));
    let server = Postgres::start().await;
    let segment = shared_memory(&server);
    drop(server);
    assert!(!is_there(&segment));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_freezes_cuts_and_heals() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let proxy = LocalTcpProxy::start(target).await;
    assert_eq!(
        proxy.url(&format!("tcp://{target}/x")),
        format!("tcp://{}/x", proxy.address())
    );

    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut byte = [0];
    stream.write_all(b"a").await.unwrap();
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");

    proxy.freeze();
    stream.write_all(b"b").await.unwrap();
    let silent =
        tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte)).await;
    assert!(silent.is_err(), "nothing passes a frozen line");
    proxy.heal().await;
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");

    proxy.cut().await;
    let ended = stream.read(&mut byte).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(
        TcpStream::connect(proxy.address()).await.is_err(),
        "a cut line refuses"
    );

    proxy.heal().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"c").await.unwrap();
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"c");
}
