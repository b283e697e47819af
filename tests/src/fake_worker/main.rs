//! A worker without a model: it speaks the real protocol over the real socket, and does what its
//! flags say, above all what no worker should do.
//!
//! Tests start it in the place of `hearth-worker` through a script that adds the flags. It tells
//! what it hears, line by line, over a control socket to the test, and waits there for `go` where
//! a flag says `hold`: so tests wait for events and never for time. When the control connection
//! ends, the process and everything that it forked is dead.

mod control;
mod encoder;
mod script;
mod answer;

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::Parser;
use hearth_shared::codec::{FrameBuffer, MAX_FRAME_BYTES, encode};
use hearth_shared::endpoint;
use hearth_shared::ids::RequestId;
use hearth_shared::protocol::{
    FromWorker, LINK_TOKEN_VARIABLE, LinkToken, LoadFailure, LoadFailureKind, LoadStage, ModelCard,
    ModelKind, PROTOCOL_VERSION, ToWorker, Work,
};
use interprocess::local_socket::Stream;
use nix::sys::signal::Signal;

use self::answer::Answer;
use self::control::Control;
use self::script::{Action, Flags, Point};

/// What `grow` adds to its memory.
const GROWTH_BYTES: usize = 300 << 20;

/// Something that happened to this worker.
enum Happening {
    Said(Box<ToWorker>),
    Go,
    GatewayGone,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    flags.prepare_process();
    let control = Control::connect(&flags.control);
    control.tell(&format!("started {}", std::process::id()));
    control.tell(&format!("environment {}", script::environment_names()));
    flags.fork_if_asked(control.share());
    let stream = Arc::new(endpoint::connect(&flags.socket).expect("the gateway listens"));
    let (happenings, inbox) = sync_channel(1024);
    control.listen(happenings.clone());
    listen(Arc::clone(&stream), happenings);
    let mut worker = Worker { script: flags.script(), control, stream, inbox, held: Vec::new() };
    worker.live()
}

/// Feeds what the gateway says to the one thread that decides.
fn listen(stream: Arc<Stream>, happenings: SyncSender<Happening>) {
    std::thread::spawn(move || {
        let (mut frames, mut chunk) = (FrameBuffer::default(), [0; 65536]);
        loop {
            while let Ok(Some(message)) = frames.next() {
                if happenings.send(Happening::Said(Box::new(message))).is_err() {
                    return;
                }
            }
            match (&*stream).read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(read) => frames.extend(&chunk[..read]),
            }
        }
        drop(happenings.send(Happening::GatewayGone));
    });
}

/// Rust's own handler takes the first SIGBUS for a stack that may have overflown, and returns.
fn end_by(signal: Signal) -> ! {
    loop {
        nix::sys::signal::raise(signal).expect("it is a signal");
    }
}

struct Worker {
    script: script::Script,
    control: Control,
    stream: Arc<Stream>,
    inbox: Receiver<Happening>,
    /// Answers that wait for `go`.
    held: Vec<Answer>,
}

/// What a point of the script leads to.
enum Next {
    GoOn,
    Hold,
    End(u8),
}

impl Worker {
    fn live(&mut self) -> ExitCode {
        match self.start() {
            Ok(()) => {}
            Err(code) => return ExitCode::from(code),
        }
        loop {
            let Ok(happening) = self.inbox.recv() else { return ExitCode::SUCCESS };
            let next = match happening {
                Happening::Said(message) => self.obey(&message),
                Happening::Go => self.go(),
                Happening::GatewayGone => Next::End(0),
            };
            if let Next::End(code) = next {
                return ExitCode::from(code);
            }
        }
    }

    /// Handshake and load.
    fn start(&mut self) -> Result<(), u8> {
        self.pass(Point::Handshake)?;
        let token = script::variable(LINK_TOKEN_VARIABLE);
        let token = LinkToken::from_hex(&token).expect("the gateway gave a token");
        let protocol_version = PROTOCOL_VERSION + u16::from(self.script.wrong_version);
        let token = if self.script.wrong_token { LinkToken([0; 16]) } else { token };
        self.send(&FromWorker::Hello { protocol_version, pid: std::process::id(), token });
        match self.inbox.recv() {
            Ok(Happening::Said(message)) => {
                let ToWorker::Load(spec) = *message else { return Err(70) };
                let name = Path::new(&spec.model_path).file_name().unwrap_or_default();
                self.control.tell(&format!("load {}", name.to_string_lossy()));
                self.control.tell(&format!(
                    "spec variant={:?} graph={} provider={} threads={:?} context={:?} slots={:?} \
                     cuda_graphs={:?}",
                    spec.variant,
                    spec.graph.as_str(),
                    spec.execution_provider.as_str(),
                    spec.threads,
                    spec.context_length,
                    spec.slots,
                    spec.cuda_graphs
                ));
            }
            Ok(_) | Err(_) => return Err(70),
        }
        self.send(&FromWorker::LoadProgress { stage: LoadStage::Session, fraction: 0.5 });
        self.pass(Point::Load)?;
        self.send(&FromWorker::Ready(ModelCard {
            kind: ModelKind::Generate,
            architecture: "fake".to_owned(),
            context_length: 512,
            slots: self.script.slots,
            execution_provider: self.script.provider(),
            execution_provider_note: None,
            runtime_version: "none".to_owned(),
            tools: true,
            thinking: true,
            embedding_length: None,
            device_bytes: None,
            placement: None,
        }));
        Ok(())
    }

    /// Passes a point of the start; `hold` waits right here.
    fn pass(&mut self, point: Point) -> Result<(), u8> {
        match self.act(point, None) {
            Next::GoOn => Ok(()),
            Next::End(code) => Err(code),
            Next::Hold => loop {
                match self.inbox.recv() {
                    Ok(Happening::Go) => return Ok(()),
                    Ok(Happening::Said(_)) => {}
                    Ok(Happening::GatewayGone) | Err(_) => return Err(0),
                }
            },
        }
    }

    fn obey(&mut self, message: &ToWorker) -> Next {
        match *message {
            ToWorker::Work { id, ref work } => self.begin(id, work),
            ToWorker::Cancel { id } => {
                self.control.tell(&format!("cancel {id}"));
                self.held.retain(|held| held.id != id);
                Next::GoOn
            }
            ToWorker::Ping { nonce } => {
                self.send(&FromWorker::Pong { nonce, progress: 0 });
                Next::GoOn
            }
            ToWorker::Shutdown => {
                self.control.tell("shutdown");
                if self.script.ignore_term { Next::GoOn } else { Next::End(0) }
            }
            ToWorker::Load(_) => Next::End(70),
        }
    }

    fn begin(&mut self, id: RequestId, work: &Work) -> Next {
        if let Work::Generate(generate) = work {
            self.control.tell(&format!("generate {id}"));
            self.control.tell(&format!("work {generate:?}"));
        } else {
            self.control.tell(&format!("encode {id}"));
        }
        if let Some(reason) = self.script.refusal() {
            self.send(&FromWorker::Failed { id, reason });
            return Next::GoOn;
        }
        match work {
            Work::Generate(generate) => self.answer(Answer::new(id, generate)),
            Work::Embed(_) | Work::Rerank(_) | Work::Tokenize(_) | Work::Detokenize(_) => {
                let replies = encoder::replies(id, work).expect("this is no generation");
                self.encode(id, &replies)
            }
        }
    }

    /// Answers go on one token further, and hold again where the script says so.
    fn go(&mut self) -> Next {
        for mut answer in std::mem::take(&mut self.held) {
            self.send(&answer.token(&self.script));
            if let Next::End(code) = self.answer(answer) {
                return Next::End(code);
            }
        }
        Next::GoOn
    }

    /// Sends the tokens that are left, up to the end or to where the script holds.
    fn answer(&mut self, mut answer: Answer) -> Next {
        while answer.done < self.script.tokens() {
            match self.act(Point::Token(answer.done), Some(answer.id)) {
                Next::GoOn => self.send(&answer.token(&self.script)),
                Next::Hold => {
                    self.held.push(answer);
                    return Next::GoOn;
                }
                Next::End(code) => return Next::End(code),
            }
        }
        self.send(&answer.end(&self.script));
        Next::GoOn
    }

    /// Sends an answer that comes in few pieces; a piece is a token to the script.
    fn encode(&mut self, id: RequestId, replies: &[FromWorker]) -> Next {
        for (reply, index) in replies.iter().zip(0..) {
            match self.act(Point::Token(index), Some(id)) {
                Next::GoOn => self.send(reply),
                Next::Hold => unreachable!("tests hold generations only"),
                Next::End(code) => return Next::End(code),
            }
        }
        Next::GoOn
    }

    fn act(&mut self, point: Point, id: Option<RequestId>) -> Next {
        let Some(action) = self.script.action_at(point) else { return Next::GoOn };
        self.control.tell(&format!("at {point}"));
        match action {
            Action::Hold => Next::Hold,
            Action::Crash => Next::End(101),
            Action::Balloon => {
                let mut held = Vec::new();
                loop {
                    // Written to, or it would take no memory.
                    held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
            Action::Grow => {
                // Written to and never given back.
                std::mem::forget(std::hint::black_box(vec![1_u8; GROWTH_BYTES]));
                Next::GoOn
            }
            Action::Bus => end_by(Signal::SIGBUS),
            Action::Ill => end_by(Signal::SIGILL),
            Action::Hang => loop {
                // Nothing is read, written or obeyed any more.
                std::thread::park();
            },
            Action::Fail | Action::FailForGood | Action::NoRuntime => {
                let kind = match action {
                    Action::FailForGood => LoadFailureKind::BadFiles,
                    Action::NoRuntime => LoadFailureKind::NoRuntime,
                    _ => LoadFailureKind::Runtime,
                };
                let message = "the fake model is broken, as told".to_owned();
                self.send(&FromWorker::LoadFailed(LoadFailure { kind, message }));
                Next::End(65)
            }
            Action::Garbage => self.send_bytes(&[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
            Action::Oversize => {
                let length = u32::try_from(MAX_FRAME_BYTES + 1).expect("the limit fits");
                self.send_bytes(&length.to_le_bytes())
            }
            Action::HangUp => {
                let Stream::UdSocket(link) = &*self.stream;
                let link = link.as_fd().as_raw_fd();
                let over = nix::sys::socket::shutdown(link, nix::sys::socket::Shutdown::Both);
                over.expect("the link is open");
                // It goes on without its link until it is told to end.
                while !matches!(self.inbox.recv(), Ok(Happening::Go) | Err(_)) {}
                Next::End(1)
            }
            Action::WrongId => {
                let id = RequestId(id.map_or(0, |id| id.0) + 1000);
                self.send(&Answer::of_nobody(id).token(&self.script));
                Next::GoOn
            }
        }
    }

    /// After nonsense there is nothing sensible to go on with: it waits to be killed.
    fn send_bytes(&mut self, bytes: &[u8]) -> Next {
        drop((&*self.stream).write_all(bytes));
        Next::Hold
    }

    fn send(&mut self, message: &FromWorker) {
        let frame = encode(message).expect("small messages fit");
        // A gateway that is gone is heard of by the reader.
        drop((&*self.stream).write_all(&frame));
    }
}
