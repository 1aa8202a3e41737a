//! Golden bytes, made with Google's own FlatBuffers library by the same calls as the cars' server, and every way to be cut or turned.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

const VIN: &[u8] = b"5YJ3E1EA7KF000001";
/// `ack("tx-1", "V")`.
const ACKNOWLEDGED: &str = "1400000000000e001800140010000f00080004000e000000140000002c00000000000005\
                            1000000014000000000000000000000001000000560000000400000074782d31000000000000000000000000";
/// Its charge is 61.5 percent, and it has every slot.
const CHARGE: &str = "1400000000000e001800140010000f00080004000e0000001400000038000000000000041000000014000000030000006d2d3100\
                      01000000560000000400000074782d3100000e001800100014000c00080004000e000000140000002800000038000000803bb16a\
                      4c0000001100000035594a3345314541374b463030303030310000000e00000076656869636c655f646576696365000017000000\
                      0a0d08081209290000000000c04e4012060880f7c4d506002000000076656869636c655f6465766963652e35594a334531454137\
                      4b4630303030303100000000";
const PAYLOAD: &str = "0a0d08081209290000000000c04e4012060880f7c4d506";

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER.decode(hex.as_bytes()).unwrap()
}

#[test]
fn message_of_another_librarys_making_is_read() {
    let message = bytes(CHARGE);
    let envelope = decode(&message).unwrap();
    assert_eq!((envelope.txid, envelope.topic), (&b"tx-1"[..], &b"V"[..]));
    let stream = envelope.stream.unwrap();
    assert_eq!(stream.sender, [&b"vehicle_device."[..], VIN].concat());
    assert_eq!((stream.device, stream.payload), (VIN, &bytes(PAYLOAD)[..]));
}

#[test]
fn acknowledgement_says_what_the_cars_own_server_says() {
    let (ours, theirs) = (ack(b"tx-1", b"V"), bytes(ACKNOWLEDGED));
    let (ours, theirs) = (decode(&ours).unwrap(), decode(&theirs).unwrap());
    assert_eq!(ours, theirs);
    assert_eq!((ours.txid, ours.topic, ours.stream), (&b"tx-1"[..], &b"V"[..], None));
    for bytes in [ack(b"tx-1", b"V"), bytes(ACKNOWLEDGED)] {
        let root = Table::at(&bytes, offset(&bytes, 0).unwrap()).unwrap();
        assert_eq!(root.byte(2), Ok(ACK));
        let union = root.reference(3).unwrap().unwrap();
        assert_eq!(take(&bytes, union), Ok([0; 4]), "an empty vector");
        assert_eq!(root.vector(4), Ok(&[][..]));
    }
}

#[test]
fn what_is_written_is_read_again() {
    let message = stream(b"t", b"V", b"sender", VIN, b"payload");
    let envelope = decode(&message).unwrap();
    assert_eq!((envelope.txid, envelope.topic), (&b"t"[..], &b"V"[..]));
    let said = Stream {
        sender: b"sender",
        device: VIN,
        payload: b"payload",
    };
    assert_eq!(envelope.stream, Some(said));
    let refused = refusal(b"t");
    let refused = decode(&refused).unwrap();
    assert_eq!(refused.txid, b"t");
    assert_eq!(refused.stream.unwrap().payload, b"incorrect message format");
}

#[test]
fn tables_begin_where_their_fields_are_aligned() {
    for txid in ["", "a", "ab", "abc", "abcd"] {
        let message = stream(txid.as_bytes(), b"V", b"", b"", b"p");
        let root = offset(&message, 0).unwrap();
        let union = Table::at(&message, root).unwrap().reference(3).unwrap().unwrap();
        assert_eq!((root % 4, union % 4), (0, 0), "{txid}");
    }
}

/// Its last four bytes end a text, and nobody reads them.
#[test]
fn message_that_is_cut_anywhere_is_malformed() {
    let message = bytes(CHARGE);
    let end = message.len() - 4;
    for cut in 0..end {
        assert_eq!(decode(&message[..cut]), Err(Malformed), "cut at {cut}");
    }
    assert_eq!(decode(&message[..end]), decode(&message));
}

proptest! {
    /// A panic would fail it.
    #[test]
    fn anything_at_all_is_read_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn message_with_one_byte_changed_is_read_or_malformed(at in 0_usize..220, byte in any::<u8>()) {
        let mut message = bytes(CHARGE);
        message[at] = byte;
        let _ = decode(&message);
    }
}
