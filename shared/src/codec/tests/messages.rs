//! Any message of the protocol, for the properties that must hold of all.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::ids::RequestId;
use crate::protocol::*;

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
        [template_variables, template]: [Option<String>; 2],
        flags: [bool; 2],
    ) -> Prompt {
        Prompt::Chat(Chat {
            messages: JsonText(messages),
            template,
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
        any::<[String; 2]>().prop_map(|[prefix, suffix]| Prompt::Infill { prefix, suffix }),
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
        [stop_token_ids, before]: [Vec<u32>; 2],
        [ignore_eos, tells_context]: [bool; 2],
        [choices, min_tokens]: [u32; 2],
        [max_tokens, logprobs, context_max]: [Option<u32>; 3],
    ) -> Work {
        Work::Generate(Box::new(Generate {
            prompt, before, tells_context, context_max, choices, sampling, logit_bias, constraint,
            stop, stop_token_ids, ignore_eos, min_tokens, max_tokens, logprobs,
        }))
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

fn placement() -> impl Strategy<Value = Option<Placement>> {
    let counts = (any::<[u32; 2]>(), any::<Option<u64>>(), any::<[bool; 2]>());
    (counts, vec(any::<String>(), 0..4), any::<bool>()).prop_map(
        |((nodes, device_weight_bytes, [cache_on_device, captured]), cpu_operators, there)| {
            there.then_some(Placement {
                nodes: nodes[0],
                device_nodes: nodes[1],
                cpu_operators,
                device_weight_bytes,
                cache_on_device,
                captured,
            })
        },
    )
}

pub(super) fn to_worker() -> impl Strategy<Value = ToWorker> {
    let graph = prop_oneof![
        Just(GraphChoice::Default),
        Just(GraphChoice::Exact),
        Just(GraphChoice::Memory)
    ];
    let strings = (any::<[String; 2]>(), any::<Option<String>>());
    let load = (strings, graph, provider(), any::<[Option<u32>; 3]>(), any::<bool>()).prop_map(
        |(
            ([model_path, runtime_library], variant),
            graph,
            execution_provider,
            [threads, context_length, slots],
            cuda_graphs,
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
                cuda_graphs,
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
        context: Vec<u32>,
        parts in vec(part(), 0..3),
        logprobs in vec((token(), number(), vec((token(), number()), 0..3)), 0..3),
        finish in proptest::option::of(finish()),
    ) -> News {
        let logprobs = logprobs
            .into_iter()
            .map(|(token, logprob, top)| TokenLogprob { token, logprob, top })
            .collect();
        News { id: RequestId(id), choice, parts, tokens, logprobs, context, finish }
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

fn card() -> impl Strategy<Value = FromWorker> {
    let model_kind =
        prop_oneof![Just(ModelKind::Generate), Just(ModelKind::Embed), Just(ModelKind::Rerank)];
    (
        any::<[String; 2]>(),
        any::<[u32; 2]>(),
        provider(),
        any::<Option<String>>(),
        model_kind,
        any::<[bool; 2]>(),
        any::<Option<u32>>(),
        any::<Option<u64>>(),
        placement(),
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
                placement,
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
                    placement,
                })
            },
        )
}

pub(super) fn from_worker() -> impl Strategy<Value = FromWorker> {
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
    prop_oneof![
        (any::<u16>(), any::<u32>(), any::<[u8; 16]>()).prop_map(
            |(protocol_version, pid, token)| {
                FromWorker::Hello { protocol_version, pid, token: LinkToken(token) }
            }
        ),
        (stage, 0.0_f32..=1.0)
            .prop_map(|(stage, fraction)| FromWorker::LoadProgress { stage, fraction }),
        card(),
        (kind, any::<String>())
            .prop_map(|(kind, message)| FromWorker::LoadFailed(LoadFailure { kind, message })),
        vec(news(), 0..5).prop_map(FromWorker::Step),
        (any::<u64>(), request_failure())
            .prop_map(|(id, reason)| FromWorker::Failed { id: RequestId(id), reason }),
        reply(),
        any::<[u64; 2]>().prop_map(|[nonce, progress]| FromWorker::Pong { nonce, progress }),
    ]
}
