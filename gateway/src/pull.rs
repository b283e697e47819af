//! From a repository of the hub, or a path on this machine, to a model in the catalogue.
//!
//! Called by Ollama's `/api/pull`. What is fetched lies under the hash of its contents until all of it
//! is there and checked, so that a pull that was broken off goes on where it stopped, and a file that
//! two models share is fetched once; then it becomes a model in one step. One pull runs at a time:
//! a second one for the same model finds it there.

use std::path::PathBuf;
use std::sync::Arc;

use hearth_shared::ids::ModelName;
use tokio::sync::Mutex;

use crate::catalog::Catalog;
use crate::error::ApiError;
use crate::http;
use crate::hub::{Choice, Hub, HubError, Listing, RepoName, Sink, choice};
use crate::store::{Entry, Store, StoreError};

/// Where pulled models come from and go to. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Puller {
    hub: Arc<Hub>,
    catalog: Arc<Catalog>,
    turn: Arc<Mutex<()>>,
}

impl Puller {
    /// From this hub into this catalogue.
    #[must_use]
    pub fn new(hub: Hub, catalog: Arc<Catalog>) -> Self {
        Self { hub: Arc::new(hub), catalog, turn: Arc::default() }
    }

    /// Makes a repository's model one of ours, unless it is already.
    ///
    /// # Errors
    /// [`ApiError`]; what has come stays for the next time, and there is no model.
    ///
    /// # Cancel safety
    /// Safe: as if it had failed.
    pub(crate) async fn pull(&self, repo: &RepoName, sink: &Sink) -> Result<(), ApiError> {
        let _turn = if let Ok(turn) = self.turn.try_lock() {
            turn
        } else {
            sink.stage("waiting for another pull to end").await;
            self.turn.lock().await
        };
        sink.stage("pulling manifest").await;
        let name = repo.local().clone();
        if self.catalog.find(&name).await?.is_some() {
            sink.stage("success").await;
            return Ok(());
        }
        let listing = self.hub.list(repo).await?;
        let choice = choice::choose(&listing, repo.tag()).map_err(HubError::from)?;
        tracing::info!(%name, commit = listing.commit, files = choice.files.len(), "pulling");
        let store = Store::new(self.catalog.root());
        let blobs = self.fetch(repo, &listing, &choice, sink).await?;
        sink.stage("writing manifest").await;
        let assembled = tokio::task::spawn_blocking({
            let name = name.clone();
            move || assemble(&store, &name, &choice, &blobs)
        });
        let assembled = assembled.await;
        self.catalog.forget().await;
        assembled.unwrap_or_else(|panic| Err(std::io::Error::other(panic).into()))?;
        // What was fetched has to be a model to the catalogue too.
        if self.catalog.find(&name).await?.is_none() {
            return Err(ApiError::NotServable(name));
        }
        sink.stage("success").await;
        Ok(())
    }

    async fn fetch(
        &self,
        repo: &RepoName,
        listing: &Listing,
        choice: &Choice,
        sink: &Sink,
    ) -> Result<Vec<PathBuf>, ApiError> {
        let store = Store::new(self.catalog.root());
        let partial = tokio::task::spawn_blocking(move || store.partial()).await;
        let partial = partial.unwrap_or_else(|panic| Err(std::io::Error::other(panic).into()))?;
        let mut blobs = Vec::new();
        for chosen in &choice.files {
            let blob = partial.join(chosen.file.content.digest().replace(':', "-"));
            self.hub.fetch((repo, listing), &chosen.file, &blob, sink).await?;
            blobs.push(blob);
        }
        Ok(blobs)
    }
}

/// Everything is there: in one step it becomes a model.
fn assemble(
    store: &Store,
    name: &ModelName,
    choice: &Choice,
    blobs: &[PathBuf],
) -> Result<(), StoreError> {
    if choice.entry == Entry::File {
        return store.publish(&blobs[0], name, Entry::File);
    }
    let staged = store.partial()?.join(http::new_id("pulled-"));
    for (chosen, blob) in choice.files.iter().zip(blobs) {
        let place = staged.join(&chosen.place);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Two files of one folder may hold the same.
        std::fs::hard_link(blob, &place)
            .or_else(|_no_links| std::fs::copy(blob, &place).map(drop))?;
    }
    store.publish_folder(&staged, name)?;
    for blob in blobs {
        // A second name of what is in the model by now.
        drop(std::fs::remove_file(blob));
    }
    Ok(())
}
