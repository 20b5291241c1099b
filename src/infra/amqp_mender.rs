//! Mends what comes from the broker, so that no message's properties can end the connection (docs/decisions/lapin.md).
//!
//! AMQP's short strings are UTF-8 by convention only, and RabbitMQ passes on what it is given; lapin ends the connection
//! over a byte that is not, and reads header tables as deep as they are nested. Here each such byte becomes a question
//! mark, and of the headers only those are let through that somebody here reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::io::{AsyncRead, AsyncWrite};

/// Type, channel, size.
const FRAME_HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Methods and headers fit in one frame, and the broker's frames are no longer.
const MAX_HELD: usize = 1024 * 1024;

/// The headers that are let through, where they are a number or a text.
const HEADERS: [&[u8]; 3] = [b"x-delivery-count", b"traceparent", b"tracestate"];

/// A stream of frames, mended as they come in whatever pieces.
#[derive(Debug, Default)]
pub struct Mender {
    /// The part of a frame that is to be seen whole.
    held: Vec<u8>,
    /// Bytes of the frame at hand that need no look.
    passing: usize,
    /// These are no frames: nothing is touched any more.
    is_lost: bool,
}

impl Mender {
    /// Takes what came, and appends what is to be read instead.
    pub fn feed(&mut self, mut bytes: &[u8], mended: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.is_lost {
                return mended.extend_from_slice(bytes);
            }
            if self.passing > 0 {
                let (passed, rest) = bytes.split_at(self.passing.min(bytes.len()));
                mended.extend_from_slice(passed);
                self.passing -= passed.len();
                bytes = rest;
                continue;
            }
            let wanted = self.wanted();
            let (taken, rest) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(taken);
            bytes = rest;
            if self.held.len() == wanted {
                self.decide(mended);
            }
        }
    }

    /// How much of the frame must be there before anything can be said.
    fn wanted(&self) -> usize {
        if self.held.len() < FRAME_HEAD { FRAME_HEAD } else { FRAME_HEAD + self.size() + 1 }
    }

    fn size(&self) -> usize {
        self.held.get(3..FRAME_HEAD).and_then(|size| size.try_into().ok()).map_or(0, u32::from_be_bytes) as usize
    }

    /// With the head: what kind it is. With all of it: what is to be read instead.
    fn decide(&mut self, mended: &mut Vec<u8>) {
        if self.held.len() == FRAME_HEAD {
            match self.held[0] {
                METHOD | HEADER if self.size() <= MAX_HELD => return,
                BODY | HEARTBEAT => self.passing = self.size() + 1,
                _ => self.is_lost = true,
            }
            return mended.append(&mut self.held);
        }
        let (head, rest) = self.held.split_at_mut(FRAME_HEAD);
        let (payload, frame_end) = rest.split_at_mut(rest.len() - 1);
        if head[0] == METHOD {
            mend_method(payload);
        } else if let Some(payload) = mend_header(payload) {
            mended.extend_from_slice(&head[..3]);
            // It only gets shorter.
            mended.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            mended.extend_from_slice(&payload);
            mended.extend_from_slice(frame_end);
            return self.held.clear();
        }
        mended.append(&mut self.held);
    }
}

/// `basic.deliver` and `basic.return` repeat what the producer wrote as exchange and routing key.
fn mend_method(payload: &mut [u8]) {
    let short_strings: &[(usize, usize)] = match payload {
        // Consumer tag; after delivery tag and redelivered: exchange, routing key.
        [0, 60, 0, 60, ..] => &[(0, 1), (9, 2)],
        // After the code: text, exchange, routing key.
        [0, 60, 0, 50, ..] => &[(2, 3)],
        _ => return,
    };
    let mut at = 4;
    for (skipped, count) in short_strings {
        at += skipped;
        for _ in 0..*count {
            let Some(&length) = payload.get(at) else { return };
            let end = at + 1 + usize::from(length);
            let Some(text) = payload.get_mut(at + 1..end) else { return };
            mend_text(text);
            at = end;
        }
    }
}

/// A content header with texts that are UTF-8 and only the headers that are read; `None` where it cannot be understood.
fn mend_header(payload: &[u8]) -> Option<Vec<u8>> {
    // Class, weight, size of the body; flags.
    let (fixed, properties) = payload.split_at_checked(14)?;
    let flags = u16::from_be_bytes(fixed[12..].try_into().ok()?);
    if !fixed.starts_with(&[0, 60]) {
        return None;
    }
    let mut mended = fixed.to_vec();
    let mut rest = properties;
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        match bit {
            13 => {
                let table = take_long(&mut rest)?;
                let kept = readable_headers(table);
                mended.extend_from_slice(&u32::try_from(kept.len()).ok()?.to_be_bytes());
                mended.extend_from_slice(&kept);
            }
            // Delivery mode, priority.
            11 | 12 => mended.extend_from_slice(take(&mut rest, 1)?),
            // The time.
            6 => mended.extend_from_slice(take(&mut rest, 8)?),
            _ => {
                let length = *rest.first()?;
                let mut text = take(&mut rest, 1 + usize::from(length))?.to_vec();
                mend_text(&mut text[1..]);
                mended.extend_from_slice(&text);
            }
        }
    }
    Some(mended)
}

/// The entries of a table that are let through; what stands behind one that cannot be understood is not looked at.
fn readable_headers(mut table: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some((entry, name, kind)) = take_entry(&mut table) {
        if HEADERS.contains(&name) && matches!(kind, b'l' | b'I' | b'i' | b'b' | b'S') {
            kept.extend_from_slice(entry);
        }
    }
    kept
}

/// The next entry of a table: all of it, its name, its value's type.
fn take_entry<'a>(table: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8], u8)> {
    let before = *table;
    let length = *take(table, 1)?.first()?;
    let name = take(table, usize::from(length))?;
    let kind = *take(table, 1)?.first()?;
    // The types that RabbitMQ writes; a table or an array is passed over by its length, however deep it is.
    match kind {
        b't' | b'b' | b'B' => drop(take(table, 1)?),
        b's' | b'u' | b'U' => drop(take(table, 2)?),
        b'I' | b'i' | b'f' => drop(take(table, 4)?),
        b'D' => drop(take(table, 5)?),
        b'l' | b'L' | b'd' | b'T' => drop(take(table, 8)?),
        b'S' | b'x' | b'A' | b'F' => drop(take_long(table)?),
        b'V' => {}
        _ => return None,
    }
    Some((&before[..before.len() - table.len()], name, kind))
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// What stands behind its own length in four bytes.
fn take_long<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?);
    take(bytes, length as usize)
}

/// Each byte that is not UTF-8 becomes a question mark, so that no length changes.
fn mend_text(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let (start, length) = (error.valid_up_to(), error.error_len());
        let end = length.map_or(text.len(), |length| start + length);
        text[start..end].fill(b'?');
        text = &mut text[end..];
    }
}

/// A connection whose incoming half is mended.
#[derive(Debug)]
pub struct Mended<S> {
    stream: S,
    mender: Mender,
    arrived: Vec<u8>,
    ready: Vec<u8>,
    /// Of what is ready, how much was read.
    read: usize,
}

impl<S> Mended<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, mender: Mender::default(), arrived: vec![0; 64 * 1024], ready: Vec::new(), read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // A frame that is not whole yet gives nothing to read.
        while this.read == this.ready.len() {
            this.ready.clear();
            this.read = 0;
            let length = std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut this.arrived))?;
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            this.mender.feed(&this.arrived[..length], &mut this.ready);
        }
        let unread = &this.ready[this.read..];
        let length = unread.len().min(buffer.len());
        buffer[..length].copy_from_slice(&unread[..length]);
        this.read += length;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], size.as_slice(), payload, &[0xce]].concat()
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// A content header with a table of headers, a priority, a message id and a type.
    fn header(table: &[u8], message_id: &[u8]) -> Vec<u8> {
        let flags: u16 = 1 << 13 | 1 << 11 | 1 << 7 | 1 << 5;
        let table_size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let fixed = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], flags.to_be_bytes().as_slice()].concat();
        [fixed.as_slice(), &table_size, table, &[7], &short(message_id), &short(b"push")].concat()
    }

    fn mend(bytes: &[u8]) -> Vec<u8> {
        let mut mended = Vec::new();
        Mender::default().feed(bytes, &mut mended);
        mended
    }

    #[test]
    fn bytes_that_are_no_text_become_question_marks_and_the_rest_stays() {
        let sent =
            [frame(HEADER, &header(b"", b"caf\xe9 \xf0\x9f\x98\x80 \xff")), frame(BODY, b"\xff\xfe"), frame(HEARTBEAT, b"")].concat();
        let read = [frame(HEADER, &header(b"", "caf? \u{1f600} ?".as_bytes())), frame(BODY, b"\xff\xfe"), frame(HEARTBEAT, b"")].concat();
        assert_eq!(mend(&sent), read);
        let deliver = |key: &[u8]| [&[0, 60, 0, 60], short(b"tag").as_slice(), &[0; 8], &[1], &short(b"exchange"), &short(key)].concat();
        assert_eq!(mend(&frame(METHOD, &deliver(b"k\xe9y"))), frame(METHOD, &deliver(b"k?y")));
    }

    #[test]
    fn of_the_headers_only_those_are_left_that_are_read() {
        let mut deep = Vec::new();
        for _ in 0..20_000 {
            deep = [short(b"a").as_slice(), b"F", &u32::try_from(deep.len()).unwrap().to_be_bytes(), &deep[..deep.len().min(64)]].concat();
        }
        let count = [short(b"x-delivery-count").as_slice(), b"l", &3_i64.to_be_bytes()].concat();
        let nested = |inner: &[u8]| [short(b"\xff").as_slice(), b"F", &u32::try_from(inner.len()).unwrap().to_be_bytes(), inner].concat();
        let sent = [nested(&deep), count.clone(), [short(b"x-death").as_slice(), b"V"].concat()].concat();
        assert_eq!(mend(&frame(HEADER, &header(&sent, b"m"))), frame(HEADER, &header(&count, b"m")));
        let typed = [short(b"x-delivery-count").as_slice(), b"F", &0_u32.to_be_bytes()].concat();
        assert_eq!(mend(&frame(HEADER, &header(&typed, b"m"))), frame(HEADER, &header(b"", b"m")));
    }

    #[test]
    fn what_is_no_frame_is_passed_on_as_it_is() {
        for bytes in
            [b"AMQP\x00\x00\x09\x01 and more".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", &[2, 0, 1, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]]
        {
            assert_eq!(mend(bytes), bytes);
        }
    }

    /// What lapin's own writer makes is understood.
    #[test]
    fn a_header_that_lapin_wrote_keeps_its_texts() {
        let mut table = FieldTable::default();
        table.insert("traceparent".into(), AMQPValue::LongString("00-1-1-00".into()));
        table.insert("x-attempt".into(), AMQPValue::LongInt(99));
        let flags = 1_u16 << 13 | 1 << 7;
        let mut payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], flags.to_be_bytes().as_slice()].concat();
        let entries = [
            [short(b"traceparent").as_slice(), b"S", &9_u32.to_be_bytes(), b"00-1-1-00"].concat(),
            [short(b"x-attempt").as_slice(), b"I", &99_i32.to_be_bytes()].concat(),
        ];
        let all = entries.concat();
        payload.extend([u32::try_from(all.len()).unwrap().to_be_bytes().as_slice(), &all, &short(b"m")].concat());
        let mended = mend(&frame(HEADER, &payload));
        assert!(mended.windows(9).any(|window| window == b"00-1-1-00") && !mended.windows(9).any(|window| window == b"x-attempt"));
    }

    proptest! {
        /// Of any table exactly those are left that are read here and are a number or a text, as they were and in their order.
        #[test]
        fn no_header_but_ours_gets_through(
            entries in proptest::collection::vec((prop_oneof![
                Just("x-delivery-count".to_owned()), Just("traceparent".to_owned()), Just("tracestate".to_owned()), Just("CC".to_owned()),
                Just("BCC".to_owned()), Just("x-death".to_owned()), Just("x-attempt".to_owned()), "[ -~]{0,30}",
            ], 0..5_usize, any::<i64>(), "\\PC{0,20}"), 0..12),
        ) {
            let write = |(name, kind, number, text): &(String, usize, i64, String)| {
                let length = u32::try_from(text.len()).unwrap().to_be_bytes();
                let value = match kind {
                    0 => [b"l".as_slice(), &number.to_be_bytes()].concat(),
                    1 => [b"S".as_slice(), &length, text.as_bytes()].concat(),
                    2 => [b"F".as_slice(), &0_u32.to_be_bytes()].concat(),
                    3 => [b"t".as_slice(), &[1]].concat(),
                    _ => b"V".to_vec(),
                };
                [short(name.as_bytes()), value].concat()
            };
            let is_ours = |entry: &&(String, usize, i64, String)| HEADERS.contains(&entry.0.as_bytes()) && entry.1 < 2;
            let sent: Vec<u8> = entries.iter().flat_map(write).collect();
            let left: Vec<u8> = entries.iter().filter(is_ours).flat_map(write).collect();
            prop_assert_eq!(mend(&frame(HEADER, &header(&sent, b"m"))), frame(HEADER, &header(&left, b"m")));
        }

        /// Whatever comes, in whatever pieces: the same is read, and mending it again changes nothing.
        #[test]
        fn pieces_do_not_matter_and_twice_is_once(
            frames in proptest::collection::vec((prop_oneof![Just(METHOD), Just(HEADER), Just(BODY), Just(HEARTBEAT)],
                proptest::collection::vec(any::<u8>(), 0..80)), 0..6),
            table in proptest::collection::vec(any::<u8>(), 0..60),
            id in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 1..17_usize,
        ) {
            let mut sent: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            sent.extend(frame(HEADER, &header(&table, &id)));
            sent.extend(frame(BODY, &id));
            let whole = mend(&sent);
            let (mut mender, mut pieces) = (Mender::default(), Vec::new());
            for piece in sent.chunks(cut) {
                mender.feed(piece, &mut pieces);
            }
            prop_assert_eq!(&pieces, &whole);
            prop_assert_eq!(mend(&whole), whole);
        }
    }
}
