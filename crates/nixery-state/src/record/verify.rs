//! Checks all records of a store, and what they say of the blobs that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use nixery_core::{PackedLayer, StorePath};
use nixery_manifest::{Compression, Descriptor, Digest, Digester};
use nixery_storage::verify::{Defect, Problem};
use nixery_storage::{Folder, Key, Operation, Storage, StorageError};
use tokio::runtime::Handle;

use super::{
    BUILDS, Documents, ImageRecord, LayerRecord, MANIFESTS, MAX_MANIFEST, Record, RecordError,
    RecordSecret, parse,
};

/// Objects that are read at once.
const READS: usize = 4;
/// The first bytes of a zstd frame. Other layers are gzip.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The folder of the store paths in a layer.
const STORE: &[u8] = b"nix/store/";

/// A stored record, with its size.
#[derive(Debug, Clone, Copy)]
struct StoredRecord {
    key: Key,
    bytes: u64,
}

/// What a record says of a layer.
#[derive(Debug)]
struct LayerClaim {
    record: StoredRecord,
    size: u64,
    facts: LayerFacts,
    /// Whether the record says which store paths are in the layer.
    has_names: bool,
}

/// What an unpacked layer shows.
#[derive(Debug, PartialEq, Eq)]
struct LayerFacts {
    tar_size: u64,
    diff_id: Digest,
    /// The names of its store paths.
    names: BTreeSet<Vec<u8>>,
}

type Claims = BTreeMap<Digest, Vec<LayerClaim>>;
type Defects = BTreeMap<Key, Defect>;

/// Checks that each record is for its key, is authentic if there is a secret, and describes the
/// blobs that it names: documents and layers, which are unpacked. Returns the records that do not.
///
/// Records of other versions, which count as missing, are not checked, and no missing blob is
/// reported, as the next build makes it. Blobs in `corrupt` are not read. Calls `progress` with the
/// number of layers that were unpacked, and of all.
///
/// # Errors
/// The store failed.
pub async fn verify_records(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    corrupt: &BTreeSet<Key>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<Defect>, StorageError> {
    let (mut claims, mut defects) = (Claims::new(), Defects::new());
    for (record, layer) in read_all::<LayerRecord>(storage, secret, BUILDS, &mut defects).await? {
        let names = layer.contents.iter().map(|(path, _)| path);
        claim(&mut claims, record, &layer.layer, Some(names));
    }
    for (record, image) in read_all::<ImageRecord>(storage, secret, MANIFESTS, &mut defects).await?
    {
        for layer in &image.layers {
            let facts = PackedLayer {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.size,
                tar_size: layer.tar_size,
                // It is found out from the bytes.
                compression: Compression::Gzip,
            };
            let names = (!layer.paths.is_empty()).then(|| layer.paths.iter());
            claim(&mut claims, record, &facts, names);
        }
        if let Some(problem) = check_documents(storage, &image, corrupt).await? {
            refuse(&mut defects, record, problem);
        }
    }
    claims.retain(|layer, _| !corrupt.contains(&Key::blob(*layer)));
    let total = claims.len() as u64;
    let mut checks = stream::iter(claims)
        .map(|(layer, claims)| check_layer(storage, layer, claims))
        .buffer_unordered(READS);
    let mut done = 0;
    while let Some(refused) = checks.try_next().await? {
        for (record, problem) in refused {
            refuse(&mut defects, record, problem);
        }
        done += 1;
        progress(done, total);
    }
    drop(checks);
    Ok(defects.into_values().collect())
}

/// Reads the usable records of a folder, and notes those that are not for their key.
async fn read_all<T: Record>(
    storage: &dyn Storage,
    secret: Option<&RecordSecret>,
    folder: Folder,
    defects: &mut Defects,
) -> Result<Vec<(StoredRecord, T)>, StorageError> {
    let keys = storage.list(folder).await?;
    let keys = keys.try_filter_map(|entry| std::future::ready(Ok(entry.key)));
    let keys: Vec<Key> = keys.try_collect().await?;
    let mut reads = stream::iter(keys)
        .map(|key| async move { (key, storage.get_bytes(&key, T::MAX_BYTES).await) })
        .buffer_unordered(READS);
    let mut records = Vec::new();
    while let Some((key, bytes)) = reads.next().await {
        let bytes = match bytes {
            Ok(Some(bytes)) => bytes,
            // Deleted meanwhile, or reported by the check of all objects.
            Ok(None) | Err(StorageError::TooLarge { .. } | StorageError::Truncated { .. }) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let record = StoredRecord {
            key,
            bytes: bytes.len() as u64,
        };
        match parse(secret, &key, &bytes) {
            Ok(parsed) => records.push((record, parsed)),
            // It counts as missing.
            Err(RecordError::Versioned(_)) => {}
            Err(error) => refuse(defects, record, error.to_string()),
        }
    }
    Ok(records)
}

fn claim<'a>(
    claims: &mut Claims,
    record: StoredRecord,
    layer: &PackedLayer,
    paths: Option<impl Iterator<Item = &'a StorePath>>,
) {
    let has_names = paths.is_some();
    let names = paths.into_iter().flatten().map(|path| {
        let name = path.as_str().rsplit('/').next();
        name.unwrap_or_default().as_bytes().to_vec()
    });
    claims.entry(layer.digest).or_default().push(LayerClaim {
        record,
        size: layer.size,
        facts: LayerFacts {
            tar_size: layer.tar_size,
            diff_id: layer.diff_id,
            names: names.collect(),
        },
        has_names,
    });
}

/// Notes the first problem of a record.
fn refuse(defects: &mut Defects, record: StoredRecord, message: String) {
    let StoredRecord { key, bytes } = record;
    let problem = Problem::Untrue { message };
    defects
        .entry(key)
        .or_insert_with(|| Defect::new(key, bytes, problem));
}

/// Compares the record of an image with its documents, unless one of them is missing or corrupt.
async fn check_documents(
    storage: &dyn Storage,
    image: &ImageRecord,
    corrupt: &BTreeSet<Key>,
) -> Result<Option<String>, StorageError> {
    let read = async |blob: &Descriptor| {
        if corrupt.contains(&Key::blob(blob.digest)) {
            return Ok(None);
        }
        match storage
            .get_bytes(&Key::blob(blob.digest), MAX_MANIFEST)
            .await
        {
            // It is no document.
            Err(StorageError::TooLarge { .. }) => Ok(Some(Bytes::new())),
            bytes => bytes,
        }
    };
    let (Some(oci), Some(config)) = (read(&image.oci).await?, read(&image.config).await?) else {
        return Ok(None);
    };
    let docker = match &image.docker {
        None => None,
        Some(docker) => match read(docker).await? {
            None => return Ok(None),
            docker => docker,
        },
    };
    let documents = Documents {
        oci: &oci,
        docker: docker.as_deref(),
        config: &config,
    };
    let checked = image.check(&documents);
    Ok(checked.err().map(|mismatch| mismatch.to_string()))
}

/// Compares what records say of a layer with the layer, unless it is missing.
async fn check_layer(
    storage: &dyn Storage,
    layer: Digest,
    claims: Vec<LayerClaim>,
) -> Result<Vec<(StoredRecord, String)>, StorageError> {
    let key = Key::blob(layer);
    let Some(reader) = storage.get(&key, None).await? else {
        return Ok(Vec::new());
    };
    let size = reader.stat.size;
    // No more is unpacked than an honest record says.
    let limit = claims.iter().map(|claim| claim.facts.tar_size).max();
    let limit = limit.unwrap_or_default();
    let (handle, body) = (Handle::current(), reader.body);
    let unpacking = tokio::task::spawn_blocking(move || {
        let body = BodyReader {
            handle,
            body,
            chunk: Bytes::new(),
        };
        unpack(body, limit)
    });
    let unpacked = unpacking.await.map_err(|error| StorageError::Failed {
        backend: storage.backend(),
        operation: Operation::Read,
        target: key.to_string(),
        retryable: false,
        source: error.into(),
    })?;
    let refused = claims.into_iter().filter_map(|claim| {
        let what = match &unpacked {
            _ if claim.size != size => "has another size than it says",
            Err(_) => "cannot be unpacked",
            Ok(facts) if claim.has_names && facts.names != claim.facts.names => {
                "has other store paths than it says"
            }
            Ok(facts)
                if (facts.diff_id, facts.tar_size)
                    != (claim.facts.diff_id, claim.facts.tar_size) =>
            {
                "unpacks to another tar than it says"
            }
            Ok(_) => return None,
        };
        Some((
            claim.record,
            format!("the layer {layer} that it names {what}"),
        ))
    });
    Ok(refused.collect())
}

/// Unpacks at most one byte more than `limit` of a layer.
fn unpack(mut body: BodyReader, limit: u64) -> io::Result<LayerFacts> {
    body.fill()?;
    let start = body.chunk.clone();
    let tar = decoder(&start, body)?;
    let mut hashed = HashedReader {
        inner: tar.take(limit.saturating_add(1)),
        digester: Digester::new(),
    };
    let mut names = BTreeSet::new();
    let mut archive = tar::Archive::new(&mut hashed);
    for entry in archive.entries()? {
        names.extend(store_path_name(&entry?.path_bytes()));
    }
    // The end of the tar, after the last entry.
    io::copy(&mut hashed, &mut io::sink())?;
    Ok(LayerFacts {
        tar_size: hashed.digester.bytes(),
        diff_id: hashed.digester.finish(),
        names,
    })
}

impl LayerRecord {
    /// Whether the first store path in the layer is one of the record's. `start` are the first
    /// bytes of the blob, at least 128 KiB unless it is smaller.
    ///
    /// This notices the blob of another layer, but not one that was made to look like this one.
    #[must_use]
    pub fn begins_with(&self, start: &[u8]) -> bool {
        let Some(first) = first_name(start) else {
            return false;
        };
        let paths = self.contents.iter().map(|(path, _)| path.as_str());
        let mut names = paths.filter_map(|path| path.rsplit('/').next());
        names.any(|name| name.as_bytes() == first)
    }
}

/// Returns the name of the first store path in a layer that may be cut off.
fn first_name(start: &[u8]) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(decoder(start, start).ok()?);
    let mut names = archive.entries().ok()?.map_while(Result::ok);
    names.find_map(|entry| store_path_name(&entry.path_bytes()))
}

/// Returns the name of the store path that an entry of a tar belongs to.
fn store_path_name(entry: &[u8]) -> Option<Vec<u8>> {
    let name = entry.strip_prefix(STORE)?;
    let name = name.split(|byte| *byte == b'/').next();
    name.filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

/// Returns the tar of a compressed layer that begins with `start`.
fn decoder<'a>(start: &[u8], layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(if start.starts_with(&ZSTD_MAGIC) {
        Box::new(zstd::Decoder::new(layer)?)
    } else {
        Box::new(flate2::read::MultiGzDecoder::new(layer))
    })
}

/// Reads a body on a thread that may block.
struct BodyReader {
    handle: Handle,
    body: BoxStream<'static, Result<Bytes, StorageError>>,
    chunk: Bytes,
}

impl BodyReader {
    /// Reads the next chunk if the last one is used up. The chunk is empty at the end.
    fn fill(&mut self) -> io::Result<()> {
        while self.chunk.is_empty() {
            let next = self.handle.block_on(self.body.try_next());
            match next.map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk,
                None => break,
            }
        }
        Ok(())
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let size = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

/// Hashes what passes through.
struct HashedReader<R> {
    inner: R,
    digester: Digester,
}

impl<R: Read> Read for HashedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.digester.update(&buffer[..size]);
        Ok(size)
    }
}
