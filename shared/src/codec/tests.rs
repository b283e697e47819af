use proptest::collection::vec;
use proptest::prelude::*;

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
    assert_eq!(PROTOCOL_VERSION, 2);
    let hello =
        FromWorker::Hello { protocol_version: 2, pid: 0x1234, token: LinkToken([0xab; 16]) };
    let mut expected = vec![26, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x34, 0x12, 0, 0];
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
        finish: None,
    }]);
    assert_eq!(
        encode(&step).unwrap(),
        [
            60, 0, 0, 0, // length
            4, 0, 0, 0, // Step
            1, 0, 0, 0, 0, 0, 0, 0, // one of them
            9, 0, 0, 0, 0, 0, 0, 0, // id
            1, 0, 0, 0, // choice
            1, 0, 0, 0, 0, 0, 0, 0, // one part
            0, 0, 0, 0, // text
            3, 0, 0, 0, 0, 0, 0, 0, b'h', 0xc3, 0xa9, 2, 0, 0, 0, // tokens
            0, 0, 0, 0, 0, 0, 0, 0, // no logprobs
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

/// NaN is not equal to itself.
fn number() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("a number", |number| !number.is_nan())
}

prop_compose! {
    fn sampling()(
        numbers in vec(number(), 7),
        top_k: u32,
        seed: Option<u64>,
    ) -> Sampling {
        Sampling {
            repetition_penalty: numbers[0],
            presence_penalty: numbers[1],
            frequency_penalty: numbers[2],
            temperature: numbers[3],
            top_k,
            top_p: numbers[4],
            min_p: numbers[5],
            typical_p: numbers[6],
            seed,
        }
    }
}

prop_compose! {
    fn chat()(
        messages: String,
        tools: Option<String>,
        choice in 0..4,
        function: String,
        template_variables: Option<String>,
        flags: [bool; 2],
    ) -> Prompt {
        Prompt::Chat(Chat {
            messages: JsonText(messages),
            tools: tools.map(JsonText),
            tool_choice: match choice {
                0 => ToolChoice::None,
                1 => ToolChoice::Auto,
                2 => ToolChoice::Required,
                _ => ToolChoice::Function(function),
            },
            parallel_tool_calls: flags[0],
            template_variables: template_variables.map(JsonText),
            split_reasoning: flags[1],
        })
    }
}

fn prompt() -> impl Strategy<Value = Prompt> {
    prop_oneof![
        chat(),
        any::<(String, bool)>()
            .prop_map(|(text, add_special_tokens)| Prompt::Text { text, add_special_tokens }),
        any::<Vec<u32>>().prop_map(Prompt::Tokens),
    ]
}

fn constraint() -> impl Strategy<Value = Constraint> {
    prop_oneof![
        Just(Constraint::JsonObject),
        any::<String>().prop_map(|schema| Constraint::JsonSchema(JsonText(schema))),
        any::<String>().prop_map(Constraint::Regex),
        any::<String>().prop_map(Constraint::Lark),
    ]
}

prop_compose! {
    fn generate()(
        prompt in prompt(),
        sampling in sampling(),
        logit_bias in vec((any::<u32>(), number()), 0..3),
        constraint in proptest::option::of(constraint()),
        stop in vec(any::<String>(), 0..4),
        stop_token_ids: Vec<u32>,
        ignore_eos: bool,
        [choices, min_tokens]: [u32; 2],
        [max_tokens, logprobs]: [Option<u32>; 2],
    ) -> Work {
        Work::Generate(Generate {
            prompt, choices, sampling, logit_bias, constraint, stop, stop_token_ids, ignore_eos,
            min_tokens, max_tokens, logprobs,
        })
    }
}

fn work() -> impl Strategy<Value = Work> {
    let input = prop_oneof![
        any::<String>().prop_map(EmbedInput::Text),
        any::<Vec<u32>>().prop_map(EmbedInput::Tokens),
    ];
    prop_oneof![
        generate(),
        (vec(input, 0..3), any::<Option<u32>>(), any::<bool>()).prop_map(
            |(inputs, dimensions, truncate)| Work::Embed(Embed { inputs, dimensions, truncate })
        ),
        (any::<String>(), any::<Vec<String>>(), any::<Option<u32>>(), any::<bool>()).prop_map(
            |(query, documents, document_tokens_max, truncate)| {
                Work::Rerank(Rerank { query, documents, document_tokens_max, truncate })
            }
        ),
        prompt().prop_map(Work::Tokenize),
        any::<Vec<u32>>().prop_map(Work::Detokenize),
    ]
}

fn provider() -> impl Strategy<Value = ExecutionProvider> {
    prop_oneof![
        Just(ExecutionProvider::Auto),
        Just(ExecutionProvider::Cpu),
        Just(ExecutionProvider::Cuda),
        Just(ExecutionProvider::DirectMl),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let graph = prop_oneof![
        Just(GraphChoice::Default),
        Just(GraphChoice::Exact),
        Just(GraphChoice::Memory)
    ];
    let strings = (any::<[String; 2]>(), any::<Option<String>>());
    let load = (strings, graph, provider(), any::<[Option<u32>; 3]>()).prop_map(
        |(
            ([model_path, runtime_library], variant),
            graph,
            execution_provider,
            [threads, context_length, slots],
        )| {
            ToWorker::Load(LoadSpec {
                model_path,
                variant,
                graph,
                runtime_library,
                execution_provider,
                threads,
                context_length,
                slots,
            })
        },
    );
    prop_oneof![
        load,
        (any::<u64>(), work()).prop_map(|(id, work)| ToWorker::Work { id: RequestId(id), work }),
        any::<u64>().prop_map(|id| ToWorker::Cancel { id: RequestId(id) }),
        any::<u64>().prop_map(|nonce| ToWorker::Ping { nonce }),
        Just(ToWorker::Shutdown),
    ]
}

fn finish() -> impl Strategy<Value = Finish> {
    let reason = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::ToolCalls),
    ];
    (reason, any::<[u32; 4]>(), any::<[u64; 2]>()).prop_map(
        |(reason, counts, [prefill_us, decode_us])| {
            let [prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens] = counts;
            Finish {
                reason,
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                reasoning_tokens,
                prefill_us,
                decode_us,
            }
        },
    )
}

fn request_failure() -> impl Strategy<Value = RequestFailure> {
    prop_oneof![
        any::<[u32; 2]>().prop_map(|[prompt_tokens, context_length]| {
            RequestFailure::ContextOverflow { prompt_tokens, context_length }
        }),
        any::<String>().prop_map(|message| RequestFailure::Template { message }),
        Just(RequestFailure::NoTemplate),
        any::<String>().prop_map(|message| RequestFailure::Unsupported { message }),
        any::<String>().prop_map(|message| RequestFailure::Constraint { message }),
        any::<String>().prop_map(|message| RequestFailure::Invalid { message }),
        any::<String>().prop_map(|message| RequestFailure::Engine { message }),
    ]
}

fn token() -> impl Strategy<Value = Token> {
    any::<(u32, Vec<u8>)>().prop_map(|(id, bytes)| Token { id, bytes })
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        any::<String>().prop_map(Part::Text),
        any::<String>().prop_map(Part::Reasoning),
        any::<(u32, String)>().prop_map(|(index, name)| Part::ToolCall { index, name }),
        any::<(u32, String)>().prop_map(|(index, json)| Part::ToolArguments { index, json }),
    ]
}

prop_compose! {
    fn news()(
        id: u64,
        [choice, tokens]: [u32; 2],
        parts in vec(part(), 0..3),
        logprobs in vec((token(), number(), vec((token(), number()), 0..3)), 0..3),
        finish in proptest::option::of(finish()),
    ) -> News {
        let logprobs = logprobs
            .into_iter()
            .map(|(token, logprob, top)| TokenLogprob { token, logprob, top })
            .collect();
        News { id: RequestId(id), choice, parts, tokens, logprobs, finish }
    }
}

/// Replies that are no news.
fn reply() -> impl Strategy<Value = FromWorker> {
    let vectors = vec(vec(number(), 0..4), 0..3);
    prop_oneof![
        (any::<u64>(), any::<[u32; 2]>(), vectors, any::<bool>()).prop_map(
            |(id, [first, prompt_tokens], vectors, last)| {
                FromWorker::Embeddings { id: RequestId(id), first, vectors, prompt_tokens, last }
            }
        ),
        (any::<u64>(), any::<[u32; 2]>(), vec(number(), 0..4), any::<bool>()).prop_map(
            |(id, [first, prompt_tokens], scores, last)| {
                FromWorker::Scores { id: RequestId(id), first, scores, prompt_tokens, last }
            }
        ),
        (any::<u64>(), vec(token(), 0..4))
            .prop_map(|(id, tokens)| FromWorker::Tokens { id: RequestId(id), tokens }),
        any::<(u64, String)>().prop_map(|(id, text)| FromWorker::Text { id: RequestId(id), text }),
    ]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    let stage = prop_oneof![
        Just(LoadStage::Files),
        Just(LoadStage::Runtime),
        Just(LoadStage::Session),
        Just(LoadStage::WarmUp),
    ];
    let kind = prop_oneof![
        Just(LoadFailureKind::BadFiles),
        Just(LoadFailureKind::Unsupported),
        Just(LoadFailureKind::NoRuntime),
        Just(LoadFailureKind::NoProvider),
        Just(LoadFailureKind::OutOfMemory),
        Just(LoadFailureKind::Runtime),
    ];
    let model_kind =
        prop_oneof![Just(ModelKind::Generate), Just(ModelKind::Embed), Just(ModelKind::Rerank)];
    let card = (
        any::<[String; 2]>(),
        any::<[u32; 2]>(),
        provider(),
        any::<Option<String>>(),
        model_kind,
        any::<[bool; 2]>(),
        any::<Option<u32>>(),
        any::<Option<u64>>(),
    )
        .prop_map(
            |(
                [architecture, runtime_version],
                [context_length, slots],
                provider,
                note,
                kind,
                [tools, thinking],
                embedding_length,
                device_bytes,
            )| {
                FromWorker::Ready(ModelCard {
                    kind,
                    architecture,
                    context_length,
                    slots,
                    execution_provider: provider,
                    execution_provider_note: note,
                    runtime_version,
                    tools,
                    thinking,
                    embedding_length,
                    device_bytes,
                })
            },
        );
    prop_oneof![
        (any::<u16>(), any::<u32>(), any::<[u8; 16]>()).prop_map(
            |(protocol_version, pid, token)| {
                FromWorker::Hello { protocol_version, pid, token: LinkToken(token) }
            }
        ),
        (stage, 0.0_f32..=1.0)
            .prop_map(|(stage, fraction)| FromWorker::LoadProgress { stage, fraction }),
        card,
        (kind, any::<String>())
            .prop_map(|(kind, message)| FromWorker::LoadFailed(LoadFailure { kind, message })),
        vec(news(), 0..5).prop_map(FromWorker::Step),
        (any::<u64>(), request_failure())
            .prop_map(|(id, reason)| FromWorker::Failed { id: RequestId(id), reason }),
        reply(),
        any::<[u64; 2]>().prop_map(|[nonce, progress]| FromWorker::Pong { nonce, progress }),
    ]
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
