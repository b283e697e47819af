mod messages;

use proptest::collection::vec;
use proptest::prelude::*;

use self::messages::{from_worker, to_worker};
use super::*;
use crate::ids::RequestId;
use crate::protocol::*;

fn decode_all<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, DecodeError> {
    let mut buffer = FrameBuffer::default();
    buffer.extend(bytes);
    let mut messages = Vec::new();
    while let Some(message) = buffer.next()? {
        messages.push(message);
    }
    buffer.end()?;
    Ok(messages)
}

/// Whoever has to change these bytes raises `PROTOCOL_VERSION`.
#[test]
fn golden_bytes_pin_the_wire_format() {
    assert_eq!(PROTOCOL_VERSION, 3);
    let hello =
        FromWorker::Hello { protocol_version: 3, pid: 0x1234, token: LinkToken([0xab; 16]) };
    let mut expected = vec![26, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0x34, 0x12, 0, 0];
    expected.extend([0xab; 16]);
    assert_eq!(encode(&hello).unwrap(), expected);

    assert_eq!(
        encode(&ToWorker::Cancel { id: RequestId(5) }).unwrap(),
        [12, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
    );
    let step = FromWorker::Step(vec![News {
        id: RequestId(9),
        choice: 1,
        parts: vec![Part::Text("hé".to_owned())],
        tokens: 2,
        logprobs: Vec::new(),
        context: vec![7],
        finish: None,
    }]);
    assert_eq!(
        encode(&step).unwrap(),
        [
            72, 0, 0, 0, // length
            4, 0, 0, 0, // Step
            1, 0, 0, 0, 0, 0, 0, 0, // one of them
            9, 0, 0, 0, 0, 0, 0, 0, // id
            1, 0, 0, 0, // choice
            1, 0, 0, 0, 0, 0, 0, 0, // one part
            0, 0, 0, 0, // text
            3, 0, 0, 0, 0, 0, 0, 0, b'h', 0xc3, 0xa9, 2, 0, 0, 0, // tokens
            0, 0, 0, 0, 0, 0, 0, 0, // no logprobs
            1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, // one token of context
            0, // no finish
        ]
    );
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_its_bytes_arrive() {
    let mut buffer = FrameBuffer::default();
    buffer.extend(&u32::MAX.to_le_bytes());
    assert!(matches!(
        buffer.next::<FromWorker>(),
        Err(DecodeError::TooLarge { bytes: 4_294_967_295 })
    ));
    assert!(buffer.bytes.capacity() < 64, "nothing was allocated for the announced frame");
}

#[test]
fn a_message_over_the_limit_is_not_sent() {
    let text = "x".repeat(MAX_FRAME_BYTES);
    assert!(matches!(
        encode(&FromWorker::Text { id: RequestId(1), text }),
        Err(EncodeError::TooLarge { bytes }) if bytes > MAX_FRAME_BYTES
    ));
}

#[test]
fn a_text_length_beyond_the_frame_allocates_nothing_and_is_garbage() {
    // Text, id, then a text that claims 2^60 bytes.
    let mut body = vec![8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    body.extend((1_u64 << 60).to_le_bytes());
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(body);
    assert!(matches!(
        decode_all::<FromWorker>(&frame),
        Err(DecodeError::Garbage { bytes: 20, .. })
    ));
}

#[test]
fn bytes_after_a_message_are_refused() {
    let mut frame = encode(&ToWorker::Shutdown).unwrap();
    frame[0] += 1;
    frame.push(0);
    assert!(matches!(
        decode_all::<ToWorker>(&frame),
        Err(DecodeError::Trailing { bytes: 5, extra: 1 })
    ));
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated() {
    let frame = encode(&ToWorker::Ping { nonce: 1 }).unwrap();
    for cut in 1..frame.len() {
        let missing_of_prefix = 4_usize.saturating_sub(cut);
        let expected = if missing_of_prefix > 0 { missing_of_prefix } else { frame.len() - cut };
        assert!(
            matches!(decode_all::<ToWorker>(&frame[..cut]), Err(DecodeError::Truncated { missing }) if missing == expected),
            "cut at {cut}"
        );
    }
    assert_eq!(decode_all::<ToWorker>(&[]).unwrap(), []);
}

proptest! {
    #[test]
    fn any_message_to_a_worker_survives_the_round_trip(messages in vec(to_worker(), 0..4)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        prop_assert_eq!(decode_all::<ToWorker>(&bytes).unwrap(), messages);
    }

    #[test]
    fn any_message_from_a_worker_survives_however_the_stream_is_cut(
        messages in vec(from_worker(), 1..4),
        cuts in vec(1_usize..40, 1..20),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        let mut buffer = FrameBuffer::default();
        let (mut rest, mut read, mut sizes) = (&bytes[..], Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().expect("cycles")).min(rest.len());
            buffer.extend(&rest[..size]);
            rest = &rest[size..];
            while let Some(message) = buffer.next::<FromWorker>().unwrap() {
                read.push(message);
            }
        }
        buffer.end().unwrap();
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn garbage_never_panics_and_never_allocates_beyond_what_arrived(
        bytes in vec(any::<u8>(), 0..4096),
    ) {
        let mut buffer = FrameBuffer::default();
        buffer.extend(&bytes);
        while let Ok(Some(_)) = buffer.next::<FromWorker>() {}
        prop_assert!(buffer.bytes.capacity() <= 8192);
    }

    #[test]
    fn a_hex_token_reads_back(token: [u8; 16]) {
        prop_assert_eq!(LinkToken::from_hex(&LinkToken(token).to_hex()), Some(LinkToken(token)));
    }
}
