//! The wire below AMQP: a TCP or TLS stream that can be cut from outside and that keeps what the
//! broker said first.
//!
//! The client library neither tells the server's properties nor lets a connection that hangs be
//! given up, so it is handed this stream instead of one of its own. What is kept ends with the
//! handshake and with 64 KiB, whichever comes first.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const KEPT: usize = 64 * 1024;

/// The runtime that the client library runs on: tokio, with our streams.
pub(super) type Engine = Runtime<RuntimeParts<Tokio, Streams>>;

/// The current tokio runtime as the client library wants it.
pub(super) fn engine() -> Engine {
    Runtime::new(RuntimeParts::new(Tokio::current(), Streams))
}

/// What can be done to a stream while the client library has it.
#[derive(Debug, Default)]
pub(super) struct Tap {
    cut: AtomicBool,
    keeping: AtomicBool,
    kept: Mutex<Vec<u8>>,
    reader: Mutex<Option<Waker>>,
}

impl Tap {
    fn new() -> Arc<Tap> {
        Arc::new(Tap { keeping: AtomicBool::new(true), ..Tap::default() })
    }

    /// Makes every read and write fail from now on.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// What the broker has said so far; nothing more is kept.
    pub(super) fn take(&self) -> Vec<u8> {
        self.keeping.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, bytes: &[u8]) {
        if self.keeping.load(Ordering::Relaxed) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up"));
        }
        Ok(())
    }
}

/// One stream to a broker.
#[derive(Debug)]
pub(super) struct Transport {
    wire: Wire,
    tap: Arc<Tap>,
}

#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    pub(super) fn plain(stream: TcpStream) -> Transport {
        Transport { wire: Wire::Plain(stream), tap: Tap::new() }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Transport {
        Transport { wire: Wire::Tls(Box::new(stream)), tap: Tap::new() }
    }

    pub(super) fn tap(&self) -> Arc<Tap> {
        Arc::clone(&self.tap)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.tap.check()?;
        let mut buf = ReadBuf::new(buf);
        let poll = match &mut self.wire {
            Wire::Plain(stream) => tokio::io::AsyncRead::poll_read(Pin::new(stream), cx, &mut buf),
            Wire::Tls(stream) => tokio::io::AsyncRead::poll_read(Pin::new(stream), cx, &mut buf),
        };
        match poll {
            Poll::Ready(Ok(())) => {
                self.tap.keep(buf.filled());
                Poll::Ready(Ok(buf.filled().len()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let mut reader = self.tap.reader.lock().unwrap_or_else(PoisonError::into_inner);
                match &mut *reader {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                drop(reader);
                // A cut between the check above and here found no waker to wake.
                self.tap.check()?;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tap.check()?;
        match &mut self.wire {
            Wire::Plain(stream) => tokio::io::AsyncWrite::poll_write(Pin::new(stream), cx, buf),
            Wire::Tls(stream) => tokio::io::AsyncWrite::poll_write(Pin::new(stream), cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tap.check()?;
        match &mut self.wire {
            Wire::Plain(s) => tokio::io::AsyncWrite::poll_write_vectored(Pin::new(s), cx, bufs),
            Wire::Tls(s) => tokio::io::AsyncWrite::poll_write_vectored(Pin::new(s), cx, bufs),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tap.check()?;
        match &mut self.wire {
            Wire::Plain(stream) => tokio::io::AsyncWrite::poll_flush(Pin::new(stream), cx),
            Wire::Tls(stream) => tokio::io::AsyncWrite::poll_flush(Pin::new(stream), cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => tokio::io::AsyncWrite::poll_shutdown(Pin::new(stream), cx),
            Wire::Tls(stream) => tokio::io::AsyncWrite::poll_shutdown(Pin::new(stream), cx),
        }
    }
}

/// Tells the client library which stream type to expect. It makes none itself: each connection
/// hands over one that is connected already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

fn not_here() -> io::Error {
    io::Error::other("streams are connected before they are handed over")
}

impl Reactor for Streams {
    type TcpStream = Transport;
    type Sleep = tokio::time::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Transport, _>(not_here())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn interval(
        &self,
        _duration: Duration,
    ) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        futures_util::stream::pending()
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(not_here()))
    }
}
