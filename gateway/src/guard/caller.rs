//! Who sent a request, and what its key lets it do.
//!
//! The door gives one to every request that it lets in. Models that a caller may not use do not
//! exist for it: `App` looks through it whenever it looks for models.

use std::sync::Arc;

use hearth_shared::ids::ModelName;
use hyper::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AccessKey;
use crate::error::ApiError;
use crate::keep_alive::KeepAlive;

/// Who sent a request.
#[derive(Debug)]
pub struct Caller {
    /// The name of its key, for the log.
    name: String,
    models: Option<Vec<ModelName>>,
    ignores_keep_alive: bool,
    /// As many places as it may have requests at once, and how many there are.
    places: Option<(Arc<Semaphore>, u32)>,
}

impl Caller {
    /// Somebody who may do everything.
    #[must_use]
    pub fn unlimited(name: &str) -> Self {
        Self { name: name.to_owned(), models: None, ignores_keep_alive: false, places: None }
    }

    /// Whoever has this key.
    #[must_use]
    pub fn with_key(key: &AccessKey) -> Self {
        let places = key.max_requests.map(|max| {
            let max = max.get();
            let places = usize::try_from(max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
            (Arc::new(Semaphore::new(places)), max)
        });
        Self {
            name: key.name.clone(),
            models: key.models.clone(),
            ignores_keep_alive: key.ignores_keep_alive,
            places,
        }
    }

    /// What the log calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a model exists for it.
    #[must_use]
    pub fn may_use(&self, model: &ModelName) -> bool {
        let allows = |allowed: &ModelName| allowed == model || allowed.as_str() == model.base();
        self.models.as_ref().is_none_or(|models| models.iter().any(allows))
    }

    /// Whether every model exists for it.
    #[must_use]
    pub fn is_for_all_models(&self) -> bool {
        self.models.is_none()
    }

    /// Whether it may change which models there are, which is everybody's affair.
    ///
    /// # Errors
    /// [`ApiError::Guard`] with 403 if its key is for some models alone.
    pub fn check_may_manage(&self) -> Result<(), ApiError> {
        match self.models {
            None => Ok(()),
            Some(_) => Err(forbidden(
                "this API key is for some models alone; it may not pull, create, copy, delete or \
                 upload any",
            )),
        }
    }

    /// Whether it may name a path on this machine, which tells what files there are.
    ///
    /// # Errors
    /// [`ApiError::Guard`] with 403 if its key has any limits.
    pub fn check_may_name_paths(&self) -> Result<(), ApiError> {
        let is_limited = self.models.is_some() || self.ignores_keep_alive || self.places.is_some();
        if is_limited {
            return Err(forbidden("this API key has limits; it may not name paths of the server"));
        }
        Ok(())
    }

    /// What its `keep_alive` means.
    #[must_use]
    pub fn keep_alive(&self, asked: Option<KeepAlive>) -> Option<KeepAlive> {
        if self.ignores_keep_alive { None } else { asked }
    }

    /// A place for one more request, until it is dropped.
    ///
    /// # Errors
    /// [`ApiError::KeyBusy`] if it has as many already as it may.
    pub fn enter(&self) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        let Some((places, limit)) = &self.places else { return Ok(None) };
        let place = Arc::clone(places).try_acquire_owned();
        place.map(Some).map_err(|_full| ApiError::KeyBusy { limit: *limit })
    }
}

fn forbidden(message: &str) -> ApiError {
    let status = StatusCode::FORBIDDEN;
    ApiError::Guard { status, message: message.to_owned(), code: "key_not_allowed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(models: &[&str]) -> Caller {
        let models = models.iter().map(|model| model.parse().unwrap()).collect();
        Caller { models: Some(models), ignores_keep_alive: true, ..Caller::unlimited("a") }
    }

    #[test]
    fn a_name_without_a_variant_allows_all_of_them() {
        let caller = caller(&["m", "n:q4"]);
        let may = |name: &str| caller.may_use(&name.parse().unwrap());
        assert_eq!(
            ["m", "m:q4", "n:q4", "n", "n:q8", "mm"].map(may),
            [true, true, true, false, false, false]
        );
        assert!(Caller::unlimited("b").may_use(&"x".parse().unwrap()));
    }

    #[test]
    fn only_keys_without_limits_may_name_paths_and_those_for_all_models_may_manage() {
        let places = Some((Arc::new(Semaphore::new(1)), 1));
        let busy = Caller { places, ..Caller::unlimited("busy") };
        let may = |caller: &Caller| {
            (caller.check_may_manage().is_ok(), caller.check_may_name_paths().is_ok())
        };
        assert_eq!(may(&Caller::unlimited("all")), (true, true));
        assert_eq!(may(&busy), (true, false));
        assert_eq!(may(&caller(&["m"])), (false, false));
    }

    #[test]
    fn a_keep_alive_that_is_ignored_is_none() {
        let forever = Some(KeepAlive::Forever);
        assert_eq!(caller(&[]).keep_alive(forever), None);
        assert_eq!(Caller::unlimited("b").keep_alive(forever), forever);
    }
}
