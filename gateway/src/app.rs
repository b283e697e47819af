//! What every handler shares: the catalogue, the fleet, the door and the metrics of one gateway, as
//! one caller may use them.
//!
//! Built by `cli/serve.rs`; `server.rs` gives each request a copy of its own, with who sent it. A copy
//! is the same gateway, and nothing in it needs a lock from whoever holds it: what changes, each part
//! guards by itself.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::OwnedSemaphorePermit;

use crate::catalog::{Catalog, CatalogUnavailable, Model, Offer};
use crate::describe::Shelf;
use crate::fleet::Fleet;
use crate::guard::Guard;
use crate::guard::caller::Caller;
use crate::openai::responses::store::Store;
use crate::pull::Puller;
use crate::server::Room;

/// One gateway.
#[derive(Debug, Clone)]
pub struct App {
    /// The models there are.
    pub catalog: Arc<Catalog>,
    /// Where more of them come from.
    pub puller: Arc<Puller>,
    /// What has been read of them beyond that.
    pub shelf: Arc<Shelf>,
    /// The workers that serve them.
    pub fleet: Fleet,
    /// Who is let in.
    pub guard: Arc<Guard>,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// Memory for bodies that are being read.
    pub room: Room,
    /// Connections that are open.
    pub connections: Arc<AtomicUsize>,
    /// Responses that can be continued.
    pub responses: Arc<Store>,
    /// Who sent the request that this copy is for.
    pub caller: Arc<Caller>,
    /// The request's place among those that the caller may have at once: taken until the last copy
    /// is gone, however long after the answer.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
}

impl App {
    /// The same gateway for a request of `caller`.
    #[must_use]
    pub fn of(&self, caller: Arc<Caller>, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { caller, place: place.map(Arc::new), ..self.clone() }
    }

    /// Every model with files of its own that exists for the caller, by name.
    ///
    /// # Errors
    /// [`CatalogUnavailable`].
    pub async fn models(&self) -> Result<Vec<Arc<Model>>, CatalogUnavailable> {
        let models = self.catalog.models().await?;
        let mine = models.values().filter(|model| self.caller.may_use(&model.name));
        Ok(mine.map(Arc::clone).collect())
    }

    /// Everything that the caller may ask for, by name: models, those that are made of them, and
    /// their other names.
    ///
    /// # Errors
    /// [`CatalogUnavailable`].
    pub async fn offers(&self) -> Result<Vec<Offer>, CatalogUnavailable> {
        let mut offers = self.catalog.names().await?.offers();
        offers.retain(|offer| self.may_use(offer));
        Ok(offers)
    }

    /// Whether it exists for the caller. Whoever may use a model may use it by every name; a derived
    /// one is a model of its own.
    #[must_use]
    pub fn may_use(&self, offer: &Offer) -> bool {
        let also = offer.alias_of.as_ref();
        [Some(&offer.name), also].into_iter().flatten().any(|name| self.caller.may_use(name))
    }
}
