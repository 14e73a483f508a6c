//! Whose turn it is to make an image, where several servers share a store.

use nixery_manifest::Digest;
use nixery_state::lease::{Contender, Lease};
use nixery_storage::Key;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::engine::{Engine, permit};
use crate::error::BuildError;
use crate::handle::BuildHandle;
use crate::image::Image;
use crate::phases::Phases;
use crate::progress::Phase;
use nixery_state::record::MANIFESTS;

/// What came of waiting for one's turn.
pub(crate) enum Turn<'a> {
    /// The image is there.
    Found(Box<Image>),
    /// No other server makes it while the lease lives, and the permit allows to begin.
    Ours(Lease, SemaphorePermit<'a>),
}

/// Finds the image of a key, waits for another server that makes it, or gets the turn to make it.
///
/// The permit comes first: whoever holds a lease is at work, so that an image that waits in a long
/// queue here can be made by a server that is idle. And whoever waits for another server holds no
/// permit. What another server failed to make is tried again here, by one server after the other.
pub(crate) async fn take<'a>(
    engine: &'a Engine,
    handle: &BuildHandle,
    phases: &Phases<'_>,
    key: Digest,
    limit: &'a Semaphore,
) -> Result<Turn<'a>, BuildError> {
    let mut contender = engine.leases.contender(&format!("image {key}"));
    let mut has_waited = false;
    loop {
        if let Some(image) = engine.cached_image(key, handle.request()).await? {
            return Ok(Turn::Found(Box::new(image)));
        }
        phases.enter(Phase::Queued);
        let permit = permit(limit).await?;
        let lease = match contender.try_take().await {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                drop(permit);
                phases.enter(Phase::Waiting);
                if !has_waited {
                    let text = "another server makes this image: waiting for it";
                    handle.log().push(text);
                }
                has_waited = true;
                wait(engine, key, &mut contender).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(image = %handle.request().name, %error, "cannot take a lease: another server may build the same image");
                Lease::unguarded()
            }
        };
        // It may have been made since the last look.
        if let Some(image) = engine.cached_image(key, handle.request()).await? {
            return Ok(Turn::Found(Box::new(image)));
        }
        if has_waited {
            let text = "the other server did not make it: making it here";
            handle.log().push(text);
        }
        return Ok(Turn::Ours(lease, permit));
    }
}

/// Waits until the image may be there, or may be made here.
async fn wait(engine: &Engine, key: Digest, contender: &mut Contender) {
    let record = Key::new(MANIFESTS, key);
    let before = engine.storage.stat(&record).await.ok().flatten();
    loop {
        contender.pause().await;
        // A failing store is noticed by the look at the lease.
        let changed = engine.storage.stat(&record).await;
        if changed.is_ok_and(|now| now.is_some() && now != before) || contender.may_try().await {
            return;
        }
    }
}
