use tokio::{
    io::{DuplexStream, duplex},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Connects to a server that sends `frames` together with its response to the handshake. Returns
/// the server's end of the connection as well.
async fn connect(frames: &[u8], capacity: usize) -> (Socket<DuplexStream>, DuplexStream) {
    let (client, mut server) = duplex(capacity);
    let respond = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(server.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let (_, key) = request.split_once("Sec-WebSocket-Key: ").unwrap();
        let accept = derive_accept_key(key.lines().next().unwrap().as_bytes());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let bytes = [response.as_bytes(), frames].concat();
        server.write_all(&bytes).await.unwrap();
    };
    let (socket, ()) = tokio::join!(Socket::connect("ws://relay.example/", client), respond);
    (socket.unwrap(), server)
}

/// Reads one frame of the client, which has less than 126 bytes. Returns its first byte and its
/// payload.
async fn client_frame(server: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut header = [0; 6];
    server.read_exact(&mut header).await.unwrap();
    let [first, length, mask @ ..] = header;
    assert!((0x80..0x80 + 126).contains(&length), "not masked");
    let mut payload = vec![0; usize::from(length - 0x80)];
    server.read_exact(&mut payload).await.unwrap();
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    (first, payload)
}

#[tokio::test]
async fn frames_that_come_with_the_handshake_are_not_lost() {
    // The empty lines are part of the message.
    let frames = b"\x81\x09\r\n\r\nfirst\x81\x06second\x88\x00";
    let (mut socket, mut server) = connect(frames, 64 * 1024).await;
    for expected in ["\r\n\r\nfirst", "second"] {
        let incoming = socket.next().await.unwrap();
        assert_eq!(incoming, Incoming::Text(expected.into()));
    }
    assert_eq!(socket.next().await.unwrap(), Incoming::Close);
    let close = client_frame(&mut server).await;
    assert_eq!(close, (0x88, NORMAL_CLOSURE.to_vec()));
    drop(server);
    assert!(socket.next().await.is_err());
}

#[tokio::test]
async fn refused_handshake_is_an_error() {
    let (client, mut server) = duplex(64 * 1024);
    let response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    server.write_all(response).await.unwrap();
    let error = Socket::connect("ws://relay.example/", client).await;
    assert!(matches!(error, Err(Error::Http(_))), "{error:?}");
}

#[tokio::test]
async fn sends_masked_frames_and_answers_pings() {
    let (mut socket, mut server) = connect(b"", 64 * 1024).await;
    socket.send_text("text").await.unwrap();
    socket.ping().await.unwrap();
    assert_eq!(client_frame(&mut server).await, (0x81, b"text".to_vec()));
    assert_eq!(client_frame(&mut server).await, (0x89, Vec::new()));

    server.write_all(b"\x89\x03abc").await.unwrap();
    let ping = socket.next().await.unwrap();
    assert_eq!(ping, Incoming::Ping(b"abc".to_vec()));
    assert_eq!(client_frame(&mut server).await, (0x8a, b"abc".to_vec()));

    socket.close().await.unwrap();
    assert_eq!(client_frame(&mut server).await.0, 0x88);
    assert!(server.read_u8().await.is_err());
}

#[tokio::test]
async fn next_loses_nothing_if_it_is_dropped() {
    let (mut socket, mut server) = connect(b"", 64 * 1024).await;
    for byte in b"\x01\x02ab\x80\x02cd" {
        let waiting = timeout(Duration::from_millis(1), socket.next()).await;
        assert!(waiting.is_err());
        server.write_all(&[*byte]).await.unwrap();
    }
    let incoming = timeout(MINUTE, socket.next()).await.unwrap().unwrap();
    assert_eq!(incoming, Incoming::Text("abcd".into()));
}

#[tokio::test]
async fn relay_that_writes_before_it_reads_does_not_block_sending() {
    // Each direction holds 1 KiB.
    let (mut socket, mut server) = connect(b"", 1024).await;
    let message = "x".repeat(100_000);
    let relay = tokio::spawn(async move {
        let frame = [b"\x81\x7e\x03\xe8", &[b'y'; 1_000][..]].concat();
        server.write_all(&frame.repeat(100)).await.unwrap();
        let mut request = vec![0; 100_014];
        server.read_exact(&mut request).await.unwrap();
        server.write_all(b"\x81\x03end").await.unwrap();
    });
    socket.send_text(&message).await.unwrap();
    let mut texts = Vec::new();
    while texts.last() != Some(&Incoming::Text("end".into())) {
        texts.push(timeout(MINUTE, socket.next()).await.unwrap().unwrap());
    }
    assert_eq!(texts.len(), 101);
    relay.await.unwrap();
}

#[tokio::test]
async fn relay_that_does_not_read_is_disconnected() {
    let is_timeout =
        |error: &Error| matches!(error, Error::Io(e) if e.kind() == ErrorKind::TimedOut);
    let (mut socket, _server) = connect(b"", 1024).await;
    socket.write_timeout = Duration::from_millis(50);
    let message = "x".repeat(MAX_QUEUED_BYTES / 2);
    socket.send_text(&message).await.unwrap();
    let error = timeout(MINUTE, socket.next()).await.unwrap().unwrap_err();
    assert!(is_timeout(&error), "{error:?}");

    let (mut socket, _server) = connect(b"", 1024).await;
    socket.write_timeout = Duration::from_millis(50);
    let mut error = Ok(());
    while error.is_ok() {
        error = timeout(MINUTE, socket.send_text(&message)).await.unwrap();
        assert!(socket.queue.len() <= MAX_QUEUED_BYTES + message.len() + 14);
    }
    assert!(is_timeout(&error.unwrap_err()));
}

#[tokio::test]
async fn only_the_last_of_many_pings_is_queued() {
    let (mut socket, mut server) = connect(b"", 1024).await;
    socket.send_text(&"x".repeat(2_000)).await.unwrap();
    let pings = tokio::spawn(async move {
        let ping = [b"\x89\x7d", &[b'p'; 125][..]].concat();
        server.write_all(&ping.repeat(1_000)).await.unwrap();
        server.write_all(b"\x81\x03end").await.unwrap();
        server
    });
    let end = Incoming::Text("end".into());
    while timeout(MINUTE, socket.next()).await.unwrap().unwrap() != end {
        assert!(socket.queue.len() <= 2_000);
    }
    drop(pings.await.unwrap());
}
