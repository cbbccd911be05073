//! One write for all frames that one poll of a connection makes.
//!
//! `h2` writes to the socket once for every DATA frame of 256 bytes or more. Here its writes land
//! in a buffer, and whoever drives the connection writes that buffer once after each poll.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The connection's side of a corked socket: reads from it, writes into the buffer.
#[derive(Debug)]
pub struct Cork {
    socket: OwnedReadHalf,
    buffer: Arc<Mutex<BytesMut>>,
}

/// The driver's side of a corked socket: brings the buffer to the socket.
#[derive(Debug)]
pub struct Drain {
    socket: OwnedWriteHalf,
    buffer: Arc<Mutex<BytesMut>>,
    /// What is being written; the connection fills the other buffer meanwhile.
    writing: BytesMut,
}

/// Splits a socket into the part that `h2` gets and the part that drives it.
pub fn cork(stream: TcpStream) -> (Cork, Drain) {
    let (read, write) = stream.into_split();
    let buffer = Arc::new(Mutex::new(BytesMut::with_capacity(INITIAL)));
    let corked = Cork {
        socket: read,
        buffer: Arc::clone(&buffer),
    };
    (
        corked,
        Drain {
            socket: write,
            buffer,
            writing: BytesMut::with_capacity(INITIAL),
        },
    )
}

impl Drain {
    /// Polls what drives the connection, writes once after each poll, and once more at its end.
    pub async fn drive<F: Future>(mut self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        let output = poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                let was_full = lock(&self.buffer).len() >= FULL;
                // A failed write is not reported here: the read side of the socket ends with it.
                match self.poll_drain(cx) {
                    // The connection waits for room, and nothing but this loop would wake it.
                    Poll::Ready(Ok(())) if was_full => continue,
                    Poll::Ready(_) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        // The last frames, such as GOAWAY.
        let _ = poll_fn(|cx| self.poll_drain(cx)).await;
        output
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.writing.is_empty() {
                self.writing.clear();
                std::mem::swap(&mut self.writing, &mut lock(&self.buffer));
                if self.writing.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.writing))?;
            self.writing.advance(written);
        }
    }
}

impl AsyncRead for Cork {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Cork {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = lock(&self.buffer);
        if buffer.len() >= FULL {
            return Poll::Pending;
        }
        buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = lock(&self.buffer);
        if buffer.len() >= FULL {
            return Poll::Pending;
        }
        for slice in slices {
            buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver drains after the connection's end; dropping its half shuts the socket down.
        Poll::Ready(Ok(()))
    }
}

fn lock(buffer: &Mutex<BytesMut>) -> MutexGuard<'_, BytesMut> {
    buffer
        .lock()
        .expect("nothing panics while it holds a buffer")
}

/// First size of a buffer: what a few dozen small calls make in one poll.
const INITIAL: usize = 16 * 1024;
/// Bytes in the buffer from which on the connection waits.
const FULL: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    fn on_one_thread(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test);
    }

    #[test]
    fn what_is_written_before_the_end_arrives_whole() {
        on_one_thread(async {
            let (near, mut far) = pair().await;
            let (mut corked, drain) = cork(near);
            // More than the buffer and the socket hold, so both have to wait and go on.
            let sent: Vec<u8> = (0..16 * FULL).map(|n| (n % 251) as u8).collect();
            let expected = sent.clone();
            let writer = drain.drive(async move { corked.write_all(&sent).await });
            let reader = async move {
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.map(|_| received)
            };
            let (written, received) = tokio::join!(writer, reader);
            written.expect("written");
            assert!(received.expect("read") == expected);
        });
    }

    #[test]
    fn nothing_leaves_before_the_poll_is_over() {
        on_one_thread(async {
            let (near, far) = pair().await;
            let (mut corked, drain) = cork(near);
            let mut polls = 0;
            drain
                .drive(poll_fn(move |cx| {
                    polls += 1;
                    for _ in 0..10 {
                        let wrote = Pin::new(&mut corked).poll_write(cx, b"frame");
                        assert!(matches!(wrote, Poll::Ready(Ok(5))));
                    }
                    if polls == 1 {
                        let mut unread = [0; 100];
                        assert!(far.try_read(&mut unread).is_err());
                    }
                    if polls == 2 {
                        Poll::Ready(())
                    } else {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }))
                .await;
        });
    }
}
