use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection to an HTTP/2 server, of whose answers to a stream only the first is read.
///
/// gRPC's C++ core, and Triton with it, answers a call whose `grpc-timeout` passes while it is in the
/// server up to four times: HEADERS with END_STREAM and RST_STREAM, and the same again. `h2` takes HEADERS
/// on a stream that has ended for an error of the whole connection, and everybody else's calls
/// would be gone with it: of twice what a Triton can do, four calls in five.
///
/// ```text
///  socket: SETTINGS  HEADERS 5 END  RST 5  HEADERS 5 END  RST 5  HEADERS 7 ...
///  read:   SETTINGS  HEADERS 5 END  RST 5                 RST 5  HEADERS 7 ...
/// ```
///
/// A header block that the reader's table of fields has to know of cannot be left out: then the
/// connection fails, as it would have.
#[derive(Debug)]
pub struct Once<T> {
    io: T,
    /// The streams that have ended of late, each at the place of its number.
    ended: Box<[u32; PLACES]>,
    place: Place,
    /// The beginning of a frame's head, of which the rest is still to come.
    kept: Vec<u8>,
    /// What is still to be handed out, for readers who have hardly room.
    staged: Vec<u8>,
}

/// Where in the stream of frames the next byte stands.
#[derive(Debug)]
enum Place {
    /// In a frame's head.
    Head,
    /// In a frame's contents, so many bytes before its end.
    Contents(usize),
    /// In those of a frame that is left out, with what has come of it.
    LeftOut { left: usize, frame: Vec<u8> },
}

impl<T> Once<T> {
    /// Reads a server's answers once.
    pub fn new(io: T) -> Self {
        Self {
            io,
            ended: Box::new([0; PLACES]),
            place: Place::Head,
            kept: Vec::new(),
            staged: Vec::new(),
        }
    }

    /// Takes out what is not to be read; returns how many bytes are left, which are the first.
    fn sift(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            match &mut self.place {
                Place::Contents(left) => {
                    let count = (*left).min(bytes.len() - from);
                    if from != to {
                        bytes.copy_within(from..from + count, to);
                    }
                    (from, to) = (from + count, to + count);
                    *left -= count;
                    if *left == 0 {
                        self.place = Place::Head;
                    }
                }
                Place::LeftOut { left, frame } => {
                    let count = (*left).min(bytes.len() - from);
                    frame.extend_from_slice(&bytes[from..from + count]);
                    from += count;
                    *left -= count;
                    if *left == 0 {
                        if !is_forgettable(frame) {
                            return Err(twice());
                        }
                        self.place = Place::Head;
                    }
                }
                Place::Head => {
                    let Some((head, _)) = bytes[from..].split_first_chunk::<HEAD>() else {
                        self.kept.extend_from_slice(&bytes[from..]);
                        break;
                    };
                    self.place = self.begin(head)?;
                    if matches!(self.place, Place::LeftOut { .. }) {
                        from += HEAD;
                        continue;
                    }
                    if from != to {
                        bytes.copy_within(from..from + HEAD, to);
                    }
                    (from, to) = (from + HEAD, to + HEAD);
                    if matches!(self.place, Place::Contents(0)) {
                        self.place = Place::Head;
                    }
                }
            }
        }
        Ok(to)
    }

    /// Decides what becomes of a frame (RFC 9113, 4.1).
    fn begin(&mut self, head: &[u8; HEAD]) -> io::Result<Place> {
        let [a, b, c, kind, flags, id @ ..] = *head;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(id) & (u32::MAX >> 1);
        let ended = &mut self.ended[(stream >> 1) as usize % PLACES];
        match kind {
            HEADERS if *ended == stream && stream != 0 => {
                if flags & END_HEADERS == 0 || len == 0 || len > LONGEST {
                    return Err(twice());
                }
                Ok(Place::LeftOut {
                    left: len,
                    frame: vec![flags],
                })
            }
            DATA | HEADERS => {
                if flags & END_STREAM != 0 {
                    *ended = stream;
                }
                Ok(Place::Contents(len))
            }
            _ => Ok(Place::Contents(len)),
        }
    }
}

impl<T: AsyncRead + Unpin> Once<T> {
    /// Reads into a buffer what is to be read: at least a byte, or the end.
    fn poll_sifted(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        loop {
            buf.put_slice(&self.kept);
            let before = buf.filled().len();
            let read = Pin::new(&mut self.io).poll_read(cx, buf);
            if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().len() == before {
                // Half a head is of no use to anybody.
                buf.set_filled(start);
                return read;
            }
            self.kept.clear();
            let count = self.sift(&mut buf.filled_mut()[start..])?;
            buf.set_filled(start + count);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Once<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.staged.is_empty() {
            if buf.remaining() >= ROOM {
                return this.poll_sifted(cx, buf);
            }
            let mut stage = [0; ROOM];
            let mut stage = ReadBuf::new(&mut stage);
            ready!(this.poll_sifted(cx, &mut stage))?;
            this.staged.extend_from_slice(stage.filled());
        }
        let count = this.staged.len().min(buf.remaining());
        buf.put_slice(&this.staged[..count]);
        this.staged.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Once<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Tells whether nobody has to know of a header block, here with the flags of its frame before it: no
/// field of it enters the table of fields (RFC 7541, 6).
fn is_forgettable(frame: &[u8]) -> bool {
    block(frame).is_some_and(|mut block| {
        while !block.is_empty() {
            let Some(rest) = field(block) else {
                return false;
            };
            block = rest;
        }
        true
    })
}

/// Returns the header block of a frame, of which the first byte is its flags.
fn block(frame: &[u8]) -> Option<&[u8]> {
    let (flags, mut contents) = frame.split_first()?;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (length, rest) = contents.split_first()?;
        (padding, contents) = (usize::from(*length), rest);
    }
    if flags & PRIORITY != 0 {
        contents = contents.get(5..)?;
    }
    contents.get(..contents.len().checked_sub(padding)?)
}

/// Goes past a field that leaves the table as it is; `None` where it does not, or is none.
fn field(block: &[u8]) -> Option<&[u8]> {
    let first = *block.first()?;
    if first & 0x80 != 0 {
        return Some(integer(block, 7)?.1);
    }
    // With incremental indexing, or a change of the table's size.
    if first & 0xe0 != 0 {
        return None;
    }
    let (name, mut rest) = integer(block, 4)?;
    if name == 0 {
        rest = text(rest)?;
    }
    text(rest)
}

fn text(block: &[u8]) -> Option<&[u8]> {
    let (len, rest) = integer(block, 7)?;
    rest.get(len..)
}

/// Reads an integer of which the first byte has so many bits (RFC 7541, 5.1).
fn integer(block: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = block.split_first()?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some((value, rest));
    }
    // No header is longer than three bytes say.
    for shift in [0, 7, 14] {
        let (next, after) = rest.split_first()?;
        rest = after;
        value += usize::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

fn twice() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the server has answered a stream twice",
    )
}

/// As many streams are remembered: the same is said again at once, or not at all.
const PLACES: usize = 256;
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Readers with less room than that are served from a stage.
const ROOM: usize = 64;
/// The most bytes of a frame that HTTP/2 allows without being told otherwise.
const LONGEST: usize = 1 << 14;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use bytes::Bytes;
    use http::Request;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// `:status: 200`, `grpc-status: 4`, of which nothing enters a table.
    const EXPIRED: &[u8] = b"\x88\x00\x0bgrpc-status\x014";
    /// The same, which enters one.
    const INDEXED: &[u8] = b"\x88\x40\x0bgrpc-status\x014";
    const BOTH: u8 = END_STREAM | END_HEADERS;

    fn frame(kind: u8, flags: u8, stream: u32, contents: &[u8]) -> Vec<u8> {
        let len = u32::try_from(contents.len()).unwrap().to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(contents);
        frame
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame(3, 0, stream, &[0; 4])
    }

    /// What Triton says when a call's time has passed.
    fn expired(stream: u32, times: usize) -> Vec<u8> {
        let once = [frame(HEADERS, BOTH, stream, EXPIRED), reset(stream)].concat();
        once.repeat(times)
    }

    /// A socket from which bytes come in pieces.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    async fn read(pieces: Vec<Vec<u8>>, room: usize) -> io::Result<Vec<u8>> {
        let mut once = Once::new(Pieces(pieces.into()));
        let (mut all, mut some) = (Vec::new(), vec![0; room]);
        loop {
            match once.read(&mut some).await? {
                0 => return Ok(all),
                count => all.extend_from_slice(&some[..count]),
            }
        }
    }

    #[tokio::test]
    async fn other_calls_go_on_where_one_is_answered_four_times() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            far.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            let mut seen = vec![0; 1 << 16];
            let mut asked = 0;
            // A request is one frame without a body; it is answered when both are there.
            while asked < 2 {
                let count = far.read(&mut seen).await.unwrap();
                asked += seen[..count]
                    .windows(5)
                    .filter(|head| head[3..] == [HEADERS, BOTH])
                    .count();
            }
            far.write_all(&expired(1, 4)).await.unwrap();
            let last = frame(HEADERS, BOTH, 3, EXPIRED);
            far.write_all(&last).await.unwrap();
            // Until the client hangs up.
            while far.read(&mut seen).await.unwrap() > 0 {}
        });
        let handshake = h2::client::handshake(Once::new(near));
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut ask = || {
            let request = Request::post("http://a/b").body(()).unwrap();
            sender.send_request(request, true).unwrap().0
        };
        let (first, second) = (ask(), ask());
        assert_eq!(first.await.unwrap().headers()["grpc-status"], "4");
        assert_eq!(second.await.unwrap().headers()["grpc-status"], "4");
        drop(sender);
        connection.await.unwrap().expect("it stands to the end");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn what_a_table_has_to_know_is_not_left_out() {
        let indexed = frame(HEADERS, BOTH, 1, INDEXED);
        let error = read(vec![indexed.clone(), indexed], 100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let padded = [&[2], EXPIRED, &[0; 2]].concat();
        let padded = frame(HEADERS, BOTH | PADDED, 1, &padded);
        let once = read(vec![padded.clone(), padded.clone()], 100).await;
        assert_eq!(once.unwrap(), padded);
    }

    proptest! {
        #[test]
        fn however_bytes_come_the_first_answers_are_read_as_they_are(
            streams in prop::collection::vec((1_u32..40, 1_usize..4, 0_usize..30), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..40),
            room in 1_usize..200,
        ) {
            let (mut sent, mut first) = (Vec::new(), Vec::new());
            let mut ended = HashSet::new();
            for (stream, times, body) in streams {
                let id = 2 * stream + 1;
                if ended.insert(id) {
                    let data = frame(DATA, 0, id, &vec![7; body]);
                    let answer = expired(id, 1);
                    first.extend(data.iter().chain(&answer));
                    sent.extend(data.into_iter().chain(answer));
                }
                for _ in 1..times {
                    sent.extend(expired(id, 1));
                    first.extend(reset(id));
                }
            }
            let mut pieces = Vec::new();
            let mut rest = Bytes::from(sent);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let cut = cut.min(rest.len());
                pieces.push(rest.split_to(cut).to_vec());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(read(pieces, room)).unwrap(), first);
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            room in 1_usize..100,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(vec![bytes], room));
        }
    }
}
