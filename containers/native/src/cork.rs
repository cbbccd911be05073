//! A socket that is written to once for each turn of its connection.
//!
//! HTTP/2 writes every small frame on its own. Here writes are gathered while the
//! connection is polled, and leave in one piece after it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The side of the socket that the connection reads and writes.
#[derive(Debug)]
pub(crate) struct Corked {
    shared: Arc<Mutex<Shared>>,
}

/// A connection, and the side of its socket that lets the gathered bytes out.
#[derive(Debug)]
pub(crate) struct Uncorking<C> {
    pub(crate) connection: Pin<Box<C>>,
    shared: Arc<Mutex<Shared>>,
    over: bool,
}

#[derive(Debug)]
struct Shared {
    socket: TcpStream,
    gathered: BytesMut,
}

impl Corked {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                socket,
                gathered: BytesMut::new(),
            })),
        }
    }

    /// Makes a connection of this socket, and drives both.
    pub(crate) fn drive<C>(self, connect: impl FnOnce(Self) -> C) -> Uncorking<C> {
        let shared = self.shared.clone();
        Uncorking {
            connection: Box::pin(connect(self)),
            shared,
            over: false,
        }
    }
}

impl Shared {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.shared).socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.shared);
        let large = bytes.len() >= LARGE_WRITE;
        if large || shared.gathered.len() + bytes.len() > MAX_GATHERED {
            ready!(shared.poll_out(cx))?;
        }
        if large {
            return Pin::new(&mut shared.socket).poll_write(cx, bytes);
        }
        shared.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        ready!(shared.poll_out(cx))?;
        Pin::new(&mut shared.socket).poll_shutdown(cx)
    }
}

impl<C: Future> Future for Uncorking<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.over {
            this.over = this.connection.as_mut().poll(cx).is_ready();
        }
        match lock(&this.shared).poll_out(cx) {
            Poll::Ready(Ok(())) if this.over => Poll::Ready(()),
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// Both sides live in one task, so it is never contended.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on a copy costs more than a system call.
const LARGE_WRITE: usize = 32 * 1024;

/// The most bytes that are gathered.
const MAX_GATHERED: usize = 128 * 1024;
