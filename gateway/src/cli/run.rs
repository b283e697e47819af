//! `hearth run MODEL [PROMPT]`: streams an answer to the terminal, or chats line by line.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::{Client, error_message};
use super::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The model to ask
    model: String,
    /// What to ask; without it, standard input is the prompt, or a chat if it is a terminal
    prompt: Option<String>,
    /// How long the model stays loaded afterwards, such as 10s, 5m, 0 or -1
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    keepalive: Option<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut chat = Chat {
        client: Client::new()?,
        model: arguments.model,
        keep_alive: arguments.keepalive,
        messages: Vec::new(),
    };
    if let Some(prompt) = arguments.prompt {
        return chat.ask(prompt).await;
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut prompt = String::new();
        stdin.lock().read_to_string(&mut prompt).map_err(|error| input_failure(&error))?;
        return chat.ask(prompt).await;
    }
    chat.warm().await?;
    while let Some(line) = next_line()? {
        match line.trim() {
            "" => {}
            "/bye" => break,
            // A failure ends the question, not the chat.
            _ => {
                if let Err(failure) = chat.ask(line).await {
                    super::complain(&failure.message);
                }
            }
        }
    }
    Ok(())
}

fn input_failure(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("standard input can't be read: {error}"))
}

/// One line from a person, or `None` at the end of input.
fn next_line() -> Result<Option<String>, Failure> {
    show(">>> ")?;
    let mut line = String::new();
    let read =
        std::io::stdin().lock().read_line(&mut line).map_err(|error| input_failure(&error))?;
    Ok((read > 0).then_some(line))
}

struct Chat {
    client: Client,
    model: String,
    keep_alive: Option<String>,
    messages: Vec<Value>,
}

impl Chat {
    /// Loads the model, so that the first question does not wait for it.
    async fn warm(&mut self) -> Result<(), Failure> {
        let body = json!({ "model": self.model, "keep_alive": self.keep_alive });
        self.client.post("/api/generate", &body).await.map(drop)
    }

    async fn ask(&mut self, prompt: String) -> Result<(), Failure> {
        self.messages.push(json!({ "role": "user", "content": prompt }));
        let body = json!({
            "model": self.model,
            "messages": self.messages,
            "stream": true,
            "keep_alive": self.keep_alive,
        });
        match self.answer(&body).await {
            Ok(answer) => {
                self.messages.push(json!({ "role": "assistant", "content": answer }));
                Ok(())
            }
            Err(failure) => {
                // Without its answer the question would confuse the next one.
                self.messages.pop();
                Err(failure)
            }
        }
    }

    async fn answer(&mut self, body: &Value) -> Result<String, Failure> {
        let response = self.client.stream("/v1/chat/completions", body).await?;
        let mut events = Events { body: response.into_body(), buffer: Vec::new() };
        let mut answer = String::new();
        while let Some(event) = events.next().await? {
            if let Some(message) = error_message(&event) {
                show("\n")?;
                return Err(Failure::new(Exit::Failed, message));
            }
            if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
                show(text)?;
                answer.push_str(text);
            }
        }
        show("\n")?;
        Ok(answer)
    }
}

/// The events of a stream, up to `[DONE]`.
struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let broken =
            |reason: &str| Failure::new(Exit::Failed, format!("the answer broke off: {reason}"));
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                match event.strip_prefix(b"data: ") {
                    Some(b"[DONE]\n\n") => return Ok(None),
                    Some(json) => {
                        return serde_json::from_slice(json)
                            .map(Some)
                            .map_err(|error| broken(&error.to_string()));
                    }
                    // A comment, such as a sign of life.
                    None => continue,
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(&error.to_string())),
                None => return Err(broken("the gateway closed the connection")),
            }
        }
    }
}

fn show(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Exit::Failed, format!("can't write the answer: {error}")))
}
