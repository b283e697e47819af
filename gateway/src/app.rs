//! What every handler shares: the catalogue, the fleet, the door and the metrics of one gateway.
//!
//! Built by `cli/serve.rs`, used through `server.rs`. It owns nothing that changes but a count.

use std::sync::atomic::AtomicUsize;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::catalog::Catalog;
use crate::fleet::Fleet;
use crate::guard::Guard;

/// One gateway.
#[derive(Debug)]
pub struct App {
    /// The models there are.
    pub catalog: Catalog,
    /// The workers that serve them.
    pub fleet: Fleet,
    /// Who is let in.
    pub guard: Guard,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// Connections that are open.
    pub connections: AtomicUsize,
}
