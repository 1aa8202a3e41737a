//! The envelope around each message of a car and around each answer: a FlatBuffers table with a union in it.
//!
//! Pure. Two tables are all that is ever read or written, so this is written out and not generated. Called for every message that a car
//! sends, so nothing that came may be trusted: each offset is checked against what is there, and no reading can fail but by
//! [`Malformed`]. The slots, in the order of Tesla's schema:
//!
//! | table | slots |
//! |---|---|
//! | envelope | 0 txid, 1 topic, 2 kind of the union, 3 union, 4 message id |
//! | stream | 0 created at (seconds), 1 sender, 2 payload, 3 device type, 4 device id, 5 delivered at |

/// The kind of a message with a payload, in either direction.
const STREAM: u8 = 4;
/// The kind of an acknowledgement, which has no content.
const ACK: u8 = 5;

/// What came is not an envelope, or ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to read a message: it is not the envelope that it should be")]
pub struct Malformed;

/// A message, or as much of it as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the acknowledgement has to repeat.
    pub txid: &'a [u8],
    /// `V` for signals.
    pub topic: &'a [u8],
    /// None: it is of a kind that a car does not send to a server.
    pub stream: Option<Stream<'a>>,
}

/// What is in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Who it says that it is from: `vehicle_device.<VIN>`, a VIN, or nothing.
    pub sender: &'a [u8],
    /// The VIN, in newer software.
    pub device: &'a [u8],
    /// Protobuf.
    pub payload: &'a [u8],
}

/// Reads a message.
pub fn decode(bytes: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let root = Table::at(bytes, offset(bytes, 0)?)?;
    let kind = root.byte(2)?;
    let stream = match (kind, root.reference(3)?) {
        (STREAM, Some(at)) => {
            let inner = Table::at(bytes, at)?;
            Some(Stream {
                sender: inner.vector(1)?,
                device: inner.vector(4)?,
                payload: inner.vector(2)?,
            })
        }
        _ => None,
    };
    Ok(Envelope {
        txid: root.vector(0)?,
        topic: root.vector(1)?,
        stream,
    })
}

/// The answer that a message was taken, whatever became of it.
pub fn ack(txid: &[u8], topic: &[u8]) -> Vec<u8> {
    let (mut writer, union) = Writer::envelope(txid, topic, ACK);
    // As the server of the cars' maker writes it: no table, but an empty vector.
    writer.vector(union, &[]);
    writer.0
}

/// The answer that a message was not understood.
pub fn refusal(txid: &[u8]) -> Vec<u8> {
    stream(txid, b"", b"", b"", b"incorrect message format")
}

/// A message with a payload: what a car sends, and how a refusal is said.
pub fn stream(txid: &[u8], topic: &[u8], sender: &[u8], device: &[u8], payload: &[u8]) -> Vec<u8> {
    let (mut writer, union) = Writer::envelope(txid, topic, STREAM);
    writer.table(union, &[0, 4, 8, 0, 12, 0], 16);
    let fields = writer.0.len() - 12;
    for (at, bytes) in [(fields, sender), (fields + 4, payload), (fields + 8, device)] {
        writer.vector(at, bytes);
    }
    writer.0
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed)?;
    let slice = bytes.get(at..end).ok_or(Malformed)?;
    slice.try_into().map_err(|_| Malformed)
}

/// Where the offset at `at` leads: it counts from itself.
fn offset(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let distance = u32::from_le_bytes(take(bytes, at)?);
    let distance = usize::try_from(distance).map_err(|_| Malformed)?;
    at.checked_add(distance).ok_or(Malformed)
}

#[derive(Clone, Copy)]
struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Its slots, two bytes each.
    slots: &'a [u8],
}

impl<'a> Table<'a> {
    fn at(bytes: &'a [u8], at: usize) -> Result<Self, Malformed> {
        let back = i64::from(i32::from_le_bytes(take(bytes, at)?));
        let head = i64::try_from(at).map_err(|_| Malformed)?.checked_sub(back);
        let head = head.and_then(|head| usize::try_from(head).ok()).ok_or(Malformed)?;
        let size = usize::from(u16::from_le_bytes(take(bytes, head)?));
        let end = head.checked_add(size).ok_or(Malformed)?;
        let slots = head.checked_add(4).ok_or(Malformed)?;
        let slots = bytes.get(slots..end).ok_or(Malformed)?;
        Ok(Self { bytes, at, slots })
    }

    /// Where a slot's field is; None if the table does not have it.
    fn field(self, slot: usize) -> Result<Option<usize>, Malformed> {
        let Ok(distance) = take(self.slots, slot * 2) else {
            return Ok(None);
        };
        match u16::from_le_bytes(distance) {
            0 => Ok(None),
            distance => self.at.checked_add(usize::from(distance)).map(Some).ok_or(Malformed),
        }
    }

    fn byte(self, slot: usize) -> Result<u8, Malformed> {
        let Some(at) = self.field(slot)? else { return Ok(0) };
        self.bytes.get(at).copied().ok_or(Malformed)
    }

    fn reference(self, slot: usize) -> Result<Option<usize>, Malformed> {
        self.field(slot)?.map(|at| offset(self.bytes, at)).transpose()
    }

    /// Empty if the table does not have it.
    fn vector(self, slot: usize) -> Result<&'a [u8], Malformed> {
        let Some(at) = self.reference(slot)? else {
            return Ok(&[]);
        };
        let length = usize::try_from(u32::from_le_bytes(take(self.bytes, at)?)).map_err(|_| Malformed)?;
        let start = at.checked_add(4).ok_or(Malformed)?;
        let end = start.checked_add(length).ok_or(Malformed)?;
        self.bytes.get(start..end).ok_or(Malformed)
    }
}

/// Writes from front to back: a table with empty offsets, then what they lead to.
struct Writer(Vec<u8>);

impl Writer {
    /// An envelope, and where the offset of its union has to be written.
    fn envelope(txid: &[u8], topic: &[u8], kind: u8) -> (Self, usize) {
        let mut writer = Self(vec![0; 4]);
        writer.table(0, &[4, 8, 20, 12, 16], 24);
        let fields = writer.0.len() - 20;
        if let Some(byte) = writer.0.get_mut(fields + 16) {
            *byte = kind;
        }
        writer.vector(fields, txid);
        writer.vector(fields + 4, topic);
        writer.vector(fields + 12, &[]);
        (writer, fields + 8)
    }

    /// A table of `size` bytes, a multiple of 4, all nought but for the way to its slots; the offset at `from` leads to it.
    fn table(&mut self, from: usize, slots: &[u16], size: u16) {
        let head_size = u16::try_from(4 + slots.len() * 2).unwrap_or(u16::MAX);
        // Such that the table begins at a multiple of 4.
        while !(self.0.len() + usize::from(head_size)).is_multiple_of(4) {
            self.0.push(0);
        }
        for number in [head_size, size].iter().chain(slots) {
            self.0.extend(number.to_le_bytes());
        }
        self.lead_here(from);
        self.0.extend(i32::from(head_size).to_le_bytes());
        self.0.resize(self.0.len() + usize::from(size) - 4, 0);
    }

    fn vector(&mut self, from: usize, bytes: &[u8]) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.lead_here(from);
        self.0
            .extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend(bytes);
        self.0.push(0);
    }

    fn lead_here(&mut self, from: usize) {
        let distance = u32::try_from(self.0.len() - from).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(from..from + 4) {
            place.copy_from_slice(&distance.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
