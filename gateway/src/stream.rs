//! Answers that come in parts → bytes on the wire, and the body type of every response. Pure.

pub mod ndjson;
pub mod sse;

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there as a whole.
#[must_use]
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// The same body; `held` is dropped with it.
#[must_use]
pub fn holding(body: Body, held: impl Send + 'static) -> Body {
    body.map_frame(move |frame| {
        let _held = &held;
        frame
    })
    .boxed_unsync()
}

/// A body that comes in parts. Dropping it, as happens when the client leaves, drops the stream.
#[must_use]
pub fn parts(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
}
