//! A server that answers every call with the same bytes, as cheaply as frames can be made.
//!
//! It speaks HTTP/2 by hand and reads no header at all, because nothing here depends on one: what
//! is measured is the proxy before it, and a server on `h2` would be the ceiling of the run.
//! It keeps flow control of the connection; its answers fit the smallest initial stream window.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use outrigger::demo::load::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves on a free port until stdin ends, and prints `listening ADDRESS`.
pub fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening {}", listener.local_addr()?);
        // The parent holds the other end, so its death is ours.
        std::thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
        accept(listener).await
    })
}

/// Serves in the background on a free port, for tests.
pub fn spawn() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async { accept(TcpListener::from_std(listener)?).await })
    });
    Ok(address)
}

async fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Ends with its connection.
        tokio::spawn(async move {
            let _ = Connection::new().run(stream).await;
        });
    }
}

/// The message of every answer.
pub fn answer() -> Bytes {
    frame(&[b'a'; ANSWER])
}

struct Connection {
    output: BytesMut,
    /// HEADERS, DATA and trailers of an answer, with no stream in them yet.
    template: [Bytes; 3],
    /// What the peer lets us send on the connection.
    window: i64,
    /// Streams whose answer waits for the window.
    waiting: VecDeque<u32>,
    /// Received bytes that the peer has not got back as window.
    consumed: u32,
}

impl Connection {
    fn new() -> Self {
        let mut output = BytesMut::with_capacity(64 * 1024);
        let mut settings = BytesMut::new();
        settings.put_u16(SETTINGS_MAX_CONCURRENT_STREAMS);
        settings.put_u32(10_000);
        settings.put_u16(SETTINGS_INITIAL_WINDOW_SIZE);
        settings.put_u32(WINDOW);
        put_frame(&mut output, SETTINGS, 0, 0, &settings);
        put_frame(
            &mut output,
            WINDOW_UPDATE,
            0,
            0,
            &(WINDOW - 65_535).to_be_bytes(),
        );
        let part = |kind, flags, payload: &[u8]| {
            let mut part = BytesMut::new();
            put_frame(&mut part, kind, flags, 0, payload);
            part.freeze()
        };
        let template = [
            part(HEADERS, END_HEADERS, ANSWER_HEAD),
            part(DATA, 0, &answer()),
            part(HEADERS, END_HEADERS | END_STREAM, ANSWER_TRAILERS),
        ];
        Self {
            output,
            template,
            window: 65_535,
            waiting: VecDeque::new(),
            consumed: 0,
        }
    }

    async fn run(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BytesMut::with_capacity(64 * 1024);
        let mut greeted = false;
        loop {
            stream.write_all(&self.output).await?;
            self.output.clear();
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            if !greeted {
                if input.len() < PREFACE.len() {
                    continue;
                }
                if !input.starts_with(PREFACE) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                input.advance(PREFACE.len());
                greeted = true;
            }
            while let Some(header) = input.get(..9) {
                let length = usize::from(header[0]) << 16
                    | usize::from(header[1]) << 8
                    | usize::from(header[2]);
                if length > MAX_FRAME {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if input.len() < 9 + length {
                    break;
                }
                let (kind, flags) = (header[3], header[4]);
                let id = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & ID;
                self.take(kind, flags, id, &input[9..9 + length]);
                input.advance(9 + length);
            }
            if self.consumed > WINDOW / 4 {
                let consumed = std::mem::take(&mut self.consumed);
                put_frame(
                    &mut self.output,
                    WINDOW_UPDATE,
                    0,
                    0,
                    &consumed.to_be_bytes(),
                );
            }
        }
    }

    fn take(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        match kind {
            DATA | HEADERS => {
                if kind == DATA {
                    // At most `MAX_FRAME` a time, and given back from a quarter of the window on.
                    self.consumed += payload.len() as u32;
                }
                if flags & END_STREAM != 0 {
                    self.waiting.push_back(id);
                    self.answer();
                } else if kind == DATA && !payload.is_empty() {
                    let length = (payload.len() as u32).to_be_bytes();
                    put_frame(&mut self.output, WINDOW_UPDATE, 0, id, &length);
                }
            }
            SETTINGS if flags & ACK == 0 => put_frame(&mut self.output, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => put_frame(&mut self.output, PING, ACK, 0, payload),
            WINDOW_UPDATE if id == 0 => {
                if let Ok(bytes) = payload.try_into() {
                    self.window += i64::from(u32::from_be_bytes(bytes) & ID);
                    self.answer();
                }
            }
            RST_STREAM => self.waiting.retain(|waiting| *waiting != id),
            // CONTINUATION carries no END_STREAM; the rest needs no answer.
            _ => {}
        }
    }

    fn answer(&mut self) {
        let cost = (5 + ANSWER) as i64;
        while self.window >= cost
            && let Some(id) = self.waiting.pop_front()
        {
            self.window -= cost;
            for part in &self.template {
                let at = self.output.len();
                self.output.extend_from_slice(part);
                self.output[at + 5..at + 9].copy_from_slice(&id.to_be_bytes());
            }
        }
    }
}

fn put_frame(into: &mut BytesMut, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    into.put_uint(payload.len() as u64, 3);
    into.put_u8(kind);
    into.put_u8(flags);
    into.put_u32(id);
    into.put_slice(payload);
}

/// Bytes of an answer's message: a small prediction.
const ANSWER: usize = 300;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:status: 200` from the static table, `content-type: application/grpc` as a literal.
const ANSWER_HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0` as a literal.
const ANSWER_TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW: u32 = 16 << 20;
/// What we have not raised by a setting.
const MAX_FRAME: usize = 16_384;
const ID: u32 = u32::MAX >> 1;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger::demo::load::{Calls, Load, Outcome, Pace, Target};

    use super::*;

    struct Checked;

    impl Calls for Checked {
        fn body(&self, _: u64) -> Bytes {
            frame(&[0; 3000])
        }

        fn accept(&self, _: u64, received: &Bytes) -> bool {
            *received == answer()
        }
    }

    #[test]
    fn every_call_gets_the_answer() {
        let target = Target::new(spawn().expect("a port"), "/any.Service/Call").expect("a path");
        let report = Load::new(
            target.connections(3),
            Pace::Closed { callers: 100 },
            Checked,
        )
        .lasting(Duration::from_millis(500))
        .run()
        .expect("connected");
        assert!(report.sent() > 500, "{report}");
        assert_eq!(report.count(Outcome::Grpc(0)), report.sent(), "{report}");
    }
}
