//! What every handler shares: the catalogue, the fleet, the door and the metrics of one gateway.
//!
//! Built by `cli/serve.rs`, used through `server.rs`. Nothing in it needs a lock from whoever holds it:
//! what changes, each part guards by itself.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::catalog::Catalog;
use crate::describe::Shelf;
use crate::fleet::Fleet;
use crate::guard::Guard;
use crate::pull::Puller;
use crate::server::Room;

/// One gateway.
#[derive(Debug)]
pub struct App {
    /// The models there are.
    pub catalog: Arc<Catalog>,
    /// Where more of them come from.
    pub puller: Puller,
    /// What has been read of them beyond that.
    pub shelf: Shelf,
    /// The workers that serve them.
    pub fleet: Fleet,
    /// Who is let in.
    pub guard: Guard,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// Memory for bodies that are being read.
    pub room: Room,
    /// Connections that are open.
    pub connections: AtomicUsize,
}
