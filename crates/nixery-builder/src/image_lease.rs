//! One server makes an image, where several share a store.

use nixery_manifest::Digest;
use nixery_state::lease::{Contender, Lease};
use nixery_state::record::MANIFESTS;
use nixery_storage::Key;

use crate::engine::{Engine, queue};
use crate::error::BuildError;
use crate::fair_limit::{FairLimit, FairPermit};
use crate::handle::BuildHandle;
use crate::image::Image;
use crate::image_store;
use crate::progress::Phase;

/// An image, or the right to make it.
pub(crate) enum ImageOrLease {
    /// The store has the image.
    Image(Box<Image>),
    /// No other server makes the image while the lease is held, and the permit allows to begin.
    Lease(Lease, FairPermit),
}

/// Finds the image of a key, waits for another server that makes it, or acquires the lease to make
/// it here.
///
/// A build acquires the permit of `limit` before the lease. So a server that holds a lease is at
/// work, and a server that is idle can make an image that waits in a long queue here. A build that
/// waits for another server holds no permit. If another server fails to make the image, the waiting
/// servers try it one after the other.
pub(crate) async fn find_or_lease(
    engine: &Engine,
    handle: &BuildHandle,
    key: Digest,
    limit: &FairLimit,
) -> Result<ImageOrLease, BuildError> {
    let mut contender = engine.leases.contender(&format!("image {key}"));
    let mut has_waited = false;
    loop {
        if let Some(image) = image_store::find(engine, key, handle.request()).await? {
            return Ok(ImageOrLease::Image(Box::new(image)));
        }
        if engine.blobs.uses().write_access().is_read_only().await {
            return Err(BuildError::read_only(engine.storage.backend()));
        }
        let permit = queue(limit, handle).await?;
        let lease = match contender.try_take().await {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                drop(permit);
                handle.enter(Phase::Waiting);
                if !has_waited {
                    let text = "another server is building this image: waiting for it";
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
        // Another server may have made the image since the last look-up.
        if let Some(image) = image_store::find(engine, key, handle.request()).await? {
            return Ok(ImageOrLease::Image(Box::new(image)));
        }
        if has_waited {
            let text = "the other server did not build the image: building it here";
            handle.log().push(text);
        }
        return Ok(ImageOrLease::Lease(lease, permit));
    }
}

/// Waits until the image may be in the store, or may be made here.
async fn wait(engine: &Engine, key: Digest, contender: &mut Contender) {
    let record = Key::new(MANIFESTS, key);
    let before = engine.storage.stat(&record).await.ok().flatten();
    loop {
        contender.pause().await;
        // `may_try` notices a store that fails.
        let changed = engine.storage.stat(&record).await;
        if changed.is_ok_and(|now| now.is_some() && now != before) || contender.may_try().await {
            return;
        }
    }
}
