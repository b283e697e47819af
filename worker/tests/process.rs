//! The worker as a process, with the test as its gateway: handshake, pings, ends and exit codes.
//!
//! What it generates is looked at elsewhere, against goldens; here it only has to be busy.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hearth_shared::codec::{self, FrameBuffer};
use hearth_shared::exit_code::WorkerExit;
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    Chat, Embed, EmbedInput, ExecutionProvider, FinishReason, FromWorker, Generate, GraphChoice,
    JsonText, LINK_TOKEN_VARIABLE, LinkToken, LoadFailureKind, LoadSpec, PROTOCOL_VERSION, Prompt,
    RequestFailure, Sampling, ToWorker, Work,
};

#[expect(
    clippy::disallowed_methods,
    reason = "these tests stand in for the gateway's `fleet/child.rs`"
)]
fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    program.env_clear().stderr(Stdio::null());
    program
}

/// ONNX Runtime, where `scripts/setup` puts it.
#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn runtime_library() -> String {
    let home = match std::env::var("HEARTH_HOME") {
        Ok(home) => PathBuf::from(home),
        Err(_) => PathBuf::from(std::env::var("HOME").unwrap()).join(".local/share/hearth"),
    };
    let library = home.join("runtime/libonnxruntime.so");
    match library.canonicalize() {
        Ok(path) => path.to_str().unwrap().to_owned(),
        Err(error) => panic!("{}: {error}; run `scripts/setup` first", library.display()),
    }
}

const TOKEN: LinkToken = LinkToken([7; 16]);

/// A worker and the gateway's end of its link.
struct Worker {
    child: Child,
    stream: UnixStream,
    frames: FrameBuffer,
    _folder: tempfile::TempDir,
}

impl Worker {
    /// Starts a worker and takes its hello.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let child = program()
            .env(LINK_TOKEN_VARIABLE, TOKEN.to_hex())
            .arg("--socket")
            .arg(&socket)
            .args(["--gateway-pid", &std::process::id().to_string()])
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut worker = Self { child, stream, frames: FrameBuffer::default(), _folder: folder };
        let hello = FromWorker::Hello {
            protocol_version: PROTOCOL_VERSION,
            pid: worker.child.id(),
            token: TOKEN,
        };
        assert_eq!(worker.receive(), Some(hello));
        worker
    }

    /// Starts a worker and loads the plain fixture.
    fn loaded() -> Self {
        Self::loaded_with("tiny-llama-genai-fp32")
    }

    /// Starts a worker and loads a fixture.
    fn loaded_with(fixture: &str) -> Self {
        let mut worker = Self::start();
        worker.send(&ToWorker::Load(load_spec(fixture)));
        worker.wait_for(|message| matches!(message, FromWorker::Ready(_)));
        worker
    }

    /// Sends work and takes the one answer to it.
    fn ask(&mut self, id: u64, work: Work) -> FromWorker {
        self.send(&ToWorker::Work { id: RequestId(id), work });
        self.receive().expect("the worker should answer")
    }

    fn send(&mut self, message: &ToWorker) {
        self.stream.write_all(&codec::encode(message).unwrap()).unwrap();
    }

    fn receive(&mut self) -> Option<FromWorker> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.frames.next().unwrap() {
                return Some(message);
            }
            // A worker that ends with unread input resets the link.
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.frames.extend(&bytes[..count]),
            }
        }
    }

    /// The first message that is wanted, and how many came before it.
    fn wait_for(&mut self, wanted: impl Fn(&FromWorker) -> bool) -> (FromWorker, usize) {
        for before in 0.. {
            let message = self.receive().expect("the worker should go on");
            if wanted(&message) {
                return (message, before);
            }
        }
        unreachable!("the loop has no end")
    }

    fn exit(mut self) -> Option<WorkerExit> {
        let status = self.child.wait().unwrap();
        status.code().and_then(WorkerExit::from_code)
    }
}

fn load_spec(fixture: &str) -> LoadSpec {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    LoadSpec {
        model_path: fixtures.join(fixture).to_str().unwrap().to_owned(),
        runtime_library: runtime_library(),
        execution_provider: ExecutionProvider::Cpu,
        threads: Some(1),
        context_length: None,
        slots: None,
        cuda_graphs: false,
        variant: None,
        graph: GraphChoice::Default,
    }
}

fn generate(id: u64, max_tokens: u32) -> ToWorker {
    let generate = Generate {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(max_tokens),
        ..Generate::new(Prompt::raw("The license"))
    };
    ToWorker::Work { id: RequestId(id), work: Work::Generate(Box::new(generate)) }
}

fn is_news_of(message: &FromWorker, id: u64) -> bool {
    match message {
        FromWorker::Step(news) => news.iter().any(|news| news.id == RequestId(id)),
        other => panic!("unexpected: {other:?}"),
    }
}

fn is_last_news_of(message: &FromWorker, id: u64) -> bool {
    match message {
        FromWorker::Step(news) => {
            news.iter().any(|news| news.id == RequestId(id) && news.finish.is_some())
        }
        _ => false,
    }
}

#[test]
fn arguments_that_make_no_sense_are_a_usage_error() {
    let status = program().arg("--nonsense").status().unwrap();
    assert_eq!(status.code(), Some(i32::from(WorkerExit::Usage.code())));
    let help = program().arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("not meant to be started by hand"));
}

#[test]
fn a_stranger_can_start_no_worker() {
    let status = program().args(["--socket", "/none", "--gateway-pid", "1"]).status().unwrap();
    assert_eq!(status.code(), Some(i32::from(WorkerExit::Sandbox.code())));
}

#[test]
fn without_a_token_or_a_gateway_a_worker_ends() {
    let pid = std::process::id().to_string();
    let arguments = ["--socket", "/nonexistent/socket", "--gateway-pid", &pid];
    let status = program().args(arguments).status().unwrap();
    assert_eq!(status.code(), Some(i32::from(WorkerExit::Usage.code())));
    let mut program = program();
    program.env(LINK_TOKEN_VARIABLE, TOKEN.to_hex());
    let status = program.args(arguments).status().unwrap();
    assert_eq!(status.code(), Some(i32::from(WorkerExit::NoLink.code())));
}

#[test]
fn a_request_is_answered_and_a_shutdown_ends_the_worker() {
    let mut worker = Worker::loaded();
    worker.send(&generate(1, 5));
    let mut tokens = 0;
    let finish = loop {
        let Some(FromWorker::Step(news)) = worker.receive() else {
            panic!("a request that runs gives steps");
        };
        assert_eq!((news.len(), news[0].id), (1, RequestId(1)));
        tokens += news[0].tokens;
        if let Some(finish) = news[0].finish {
            break finish;
        }
    };
    assert_eq!((tokens, finish.completion_tokens, finish.reason), (5, 5, FinishReason::Length));
    worker.send(&ToWorker::Shutdown);
    assert_eq!(worker.receive(), None);
    assert_eq!(worker.exit(), Some(WorkerExit::Done));
}

#[test]
fn pings_are_answered_while_the_model_runs_and_show_that_it_does() {
    let mut worker = Worker::loaded();
    let mut last_progress = 0;
    for nonce in 0..5 {
        // Each round brings work of its own: the last round's may be over before anybody looks.
        let id = nonce + 1;
        worker.send(&generate(id, 400));
        // Two steps: the first has been counted when the second one's news are sent.
        for _ in 0..2 {
            worker.wait_for(|message| is_news_of(message, id));
        }
        worker.send(&ToWorker::Ping { nonce });
        let (pong, _) = worker.wait_for(|message| matches!(message, FromWorker::Pong { .. }));
        let FromWorker::Pong { nonce: echoed, progress } = pong else {
            unreachable!("only pongs are waited for");
        };
        assert_eq!(echoed, nonce);
        assert!(progress > last_progress, "{progress} after {last_progress}");
        last_progress = progress;
    }
}

#[test]
fn pings_are_answered_before_a_load_is_asked_for() {
    let mut worker = Worker::start();
    worker.send(&ToWorker::Ping { nonce: 9 });
    assert_eq!(worker.receive(), Some(FromWorker::Pong { nonce: 9, progress: 0 }));
}

#[test]
fn a_cancelled_request_says_nothing_more() {
    let mut worker = Worker::loaded();
    worker.send(&generate(1, 400));
    worker.wait_for(|message| is_news_of(message, 1));
    // Also one that is still being prepared when its cancellation comes.
    worker.send(&generate(2, 400));
    worker.send(&ToWorker::Cancel { id: RequestId(1) });
    worker.send(&ToWorker::Cancel { id: RequestId(2) });
    worker.send(&generate(3, 20));
    worker.wait_for(|message| is_last_news_of(message, 3));
    worker.send(&ToWorker::Ping { nonce: 1 });
    let (_, before) = worker.wait_for(|message| matches!(message, FromWorker::Pong { .. }));
    assert_eq!(before, 0, "the worker should be idle");
}

#[test]
fn a_request_that_makes_no_sense_fails_alone() {
    let mut worker = Worker::loaded();
    let chat = Prompt::Chat(Chat::new(JsonText("nonsense".to_owned())));
    let work = Work::Generate(Box::new(Generate::new(chat)));
    worker.send(&ToWorker::Work { id: RequestId(1), work });
    let failed = worker.receive();
    let Some(FromWorker::Failed { id, reason: RequestFailure::Invalid { .. } }) = failed else {
        panic!("unexpected: {failed:?}");
    };
    assert_eq!(id, RequestId(1));
    worker.send(&generate(2, 3));
    worker.wait_for(|message| is_last_news_of(message, 2));
}

#[test]
fn an_encoder_embeds_over_the_link_and_answers_pings() {
    let mut worker = Worker::loaded_with("tiny-bert-embed");
    let inputs = vec![EmbedInput::Text("Hello".to_owned()), EmbedInput::Tokens(vec![2, 41, 3])];
    let embed = Embed { inputs, dimensions: None, truncate: true };
    let answer = worker.ask(1, Work::Embed(embed.clone()));
    let FromWorker::Embeddings { id, first: 0, vectors, prompt_tokens: 9, last: true } = answer
    else {
        panic!("unexpected: {answer:?}");
    };
    assert_eq!((id, vectors.len()), (RequestId(1), 2));
    assert!(vectors.iter().all(|vector| vector.len() == 64));
    // One that is cancelled while it is being prepared or run says nothing, or all of it.
    worker.send(&ToWorker::Work { id: RequestId(2), work: Work::Embed(embed) });
    worker.send(&ToWorker::Cancel { id: RequestId(2) });
    // An answer is on its way before the work that it took is counted.
    let counts = (0..10_000).any(|nonce| {
        worker.send(&ToWorker::Ping { nonce });
        let (pong, _) = worker.wait_for(|message| matches!(message, FromWorker::Pong { .. }));
        let FromWorker::Pong { nonce: back, progress } = pong else { unreachable!() };
        assert_eq!(back, nonce);
        progress >= 6
    });
    assert!(counts, "an encoder's work is not counted");
}

#[test]
fn every_kind_of_model_turns_text_into_tokens_and_back() {
    let text = |text: &str, add_special_tokens| {
        Work::Tokenize(Prompt::Text { text: text.to_owned(), add_special_tokens })
    };
    let mut worker = Worker::loaded_with("tiny-bert-embed");
    let tokens = |answer| match answer {
        FromWorker::Tokens { id: RequestId(1), tokens } => {
            tokens.into_iter().map(|token| (token.id, token.bytes)).collect::<Vec<_>>()
        }
        other => panic!("unexpected: {other:?}"),
    };
    let ids =
        |tokens: Vec<(u32, Vec<u8>)>| tokens.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(tokens(worker.ask(1, text("Hello", true)))), [2, 41, 65, 176, 70, 3]);
    let plain = tokens(worker.ask(1, text("Hello", false)));
    let bytes = plain.iter().map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>();
    assert_eq!(bytes[0], b"h");
    let answer = worker.ask(1, Work::Detokenize(ids(plain)));
    assert_eq!(answer, FromWorker::Text { id: RequestId(1), text: "hello".to_owned() });

    let mut worker = Worker::loaded();
    let plain = tokens(worker.ask(1, text("é no", false)));
    let bytes = plain.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    assert_eq!(String::from_utf8(bytes).unwrap(), "é no");
    let answer = worker.ask(1, Work::Detokenize(ids(plain)));
    assert_eq!(answer, FromWorker::Text { id: RequestId(1), text: "é no".to_owned() });
}

#[test]
fn work_that_a_model_cannot_do_is_refused_with_what_it_does() {
    let embed = Embed {
        inputs: vec![EmbedInput::Text("Hello".to_owned())],
        dimensions: None,
        truncate: true,
    };
    let generate = Generate::new(Prompt::raw("Hello"));
    for (fixture, work, does) in [
        ("tiny-llama-genai-fp32", Work::Embed(embed), "this model generates text"),
        ("tiny-bert-embed", Work::Generate(Box::new(generate)), "this model makes embeddings"),
    ] {
        let answer = Worker::loaded_with(fixture).ask(1, work);
        let FromWorker::Failed { reason: RequestFailure::Unsupported { message }, .. } = answer
        else {
            panic!("unexpected: {answer:?}");
        };
        assert!(message.starts_with(does), "{message}");
    }
}

#[test]
fn the_end_of_the_link_ends_a_worker_that_is_busy() {
    let mut worker = Worker::loaded();
    for id in 0..4 {
        worker.send(&generate(id, 400));
    }
    worker.wait_for(|message| is_news_of(message, 3));
    worker.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(worker.exit(), Some(WorkerExit::Done));
}

#[test]
fn a_gateway_that_leaves_before_the_load_is_no_link() {
    let worker = Worker::start();
    worker.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(worker.exit(), Some(WorkerExit::NoLink));
}

#[test]
fn garbage_and_messages_out_of_turn_end_the_worker() {
    let mut worker = Worker::start();
    worker.stream.write_all(&[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    assert_eq!(worker.receive(), None);
    assert_eq!(worker.exit(), Some(WorkerExit::Protocol));
    let mut worker = Worker::start();
    worker.send(&generate(1, 1));
    assert_eq!(worker.receive(), None);
    assert_eq!(worker.exit(), Some(WorkerExit::Protocol));
}

#[test]
fn a_load_that_fails_says_why_and_ends_the_worker() {
    let mut worker = Worker::start();
    worker.send(&ToWorker::Load(load_spec("no-such-model")));
    let (message, _) = worker.wait_for(|message| matches!(message, FromWorker::LoadFailed(_)));
    let FromWorker::LoadFailed(failure) = message else {
        unreachable!("only a failure is waited for");
    };
    assert_eq!(failure.kind, LoadFailureKind::BadFiles);
    assert!(failure.message.contains("no-such-model"), "{}", failure.message);
    assert_eq!(worker.receive(), None);
    assert_eq!(worker.exit(), Some(WorkerExit::LoadFailed));
}
