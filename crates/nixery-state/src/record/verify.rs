//! Checks all records of a store, and what they say of the blobs that they name.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use nixery_core::StorePath;
use nixery_manifest::{Descriptor, Digest, Digester};
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
/// The largest window of a zstd frame that is read, as a power of two: 8 MiB, which is four times
/// that of the packer. The decoder reserves as much memory as the frame says.
const MAX_ZSTD_WINDOW: u32 = 23;
/// The folder of the store paths in a layer.
const STORE: &[u8] = b"nix/store/";
/// Most bytes of a tar that are read at the start of a layer to find its first store path.
const MAX_START: u64 = 1024 * 1024;
/// Most bytes of the headers of one entry of a tar. A name that does not fit into a header is in
/// memory, and the names that the packer writes have a few kilobytes at most.
const MAX_HEADERS: u64 = 1024 * 1024;
/// Most bytes of a file name that are kept. The name of a store path is shorter.
const MAX_NAME: usize = 256;

/// A stored record, with its size.
#[derive(Debug, Clone, Copy)]
struct StoredRecord {
    key: Key,
    bytes: u64,
}

/// What records say of a layer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LayerClaim {
    size: u64,
    tar_size: u64,
    diff_id: Digest,
    /// The names of its store paths, unless the records do not say which ones they are.
    names: Option<BTreeSet<Vec<u8>>>,
}

/// What an unpacked layer shows.
#[derive(Debug)]
struct LayerFacts {
    tar_size: u64,
    diff_id: Digest,
    /// The names of its store paths.
    names: BTreeSet<Vec<u8>>,
}

/// What the records of a store say of its layers. Thousands of images have the same layers, so each
/// claim is kept once.
#[derive(Debug, Default)]
struct Claims {
    records: Vec<StoredRecord>,
    /// The claims about each layer, with the places of the records that make them.
    layers: BTreeMap<Digest, BTreeMap<LayerClaim, Vec<usize>>>,
}

impl Claims {
    /// Adds the claims of a record.
    fn add(
        &mut self,
        record: StoredRecord,
        claims: impl IntoIterator<Item = (Digest, LayerClaim)>,
    ) {
        let place = self.records.len();
        self.records.push(record);
        for (layer, claim) in claims {
            let records = self.layers.entry(layer).or_default();
            records.entry(claim).or_default().push(place);
        }
    }
}

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
    let (mut claims, mut defects) = (Claims::default(), Defects::new());
    let mut layers = read_all::<LayerRecord>(storage, secret, BUILDS).await?;
    while let Some((record, parsed)) = layers.try_next().await? {
        let Some(LayerRecord { layer, contents }) = usable(&mut defects, record, parsed) else {
            continue;
        };
        let claim = LayerClaim {
            size: layer.size,
            tar_size: layer.tar_size,
            diff_id: layer.diff_id,
            names: Some(names_of(contents.iter().map(|(path, _)| path))),
        };
        claims.add(record, [(layer.digest, claim)]);
    }
    drop(layers);
    let mut images = read_all::<ImageRecord>(storage, secret, MANIFESTS).await?;
    while let Some((record, parsed)) = images.try_next().await? {
        let Some(image) = usable(&mut defects, record, parsed) else {
            continue;
        };
        let layers = image.layers.iter().map(|layer| {
            let claim = LayerClaim {
                size: layer.size,
                tar_size: layer.tar_size,
                diff_id: layer.diff_id,
                names: (!layer.paths.is_empty()).then(|| names_of(&layer.paths)),
            };
            (layer.digest, claim)
        });
        claims.add(record, layers);
        if let Some(problem) = check_documents(storage, &image, corrupt).await? {
            refuse(&mut defects, record, problem);
        }
    }
    drop(images);
    let Claims {
        records,
        mut layers,
    } = claims;
    layers.retain(|layer, _| !corrupt.contains(&Key::blob(*layer)));
    let total = layers.len() as u64;
    let mut checks = stream::iter(layers)
        .map(|(layer, claims)| check_layer(storage, layer, claims))
        .buffer_unordered(READS);
    let mut done = 0;
    while let Some(refused) = checks.try_next().await? {
        for (places, problem) in refused {
            for place in places {
                refuse(&mut defects, records[place], problem.clone());
            }
        }
        done += 1;
        progress(done, total);
    }
    drop(checks);
    Ok(defects.into_values().collect())
}

/// Reads and parses the records of a folder, a few at once.
async fn read_all<'a, T: Record>(
    storage: &'a dyn Storage,
    secret: Option<&'a RecordSecret>,
    folder: Folder,
) -> Result<
    impl Stream<Item = Result<(StoredRecord, Result<T, RecordError>), StorageError>> + Unpin + 'a,
    StorageError,
> {
    let keys = storage.list(folder).await?;
    let keys = keys.try_filter_map(|entry| std::future::ready(Ok(entry.key)));
    let keys: Vec<Key> = keys.try_collect().await?;
    let reads = stream::iter(keys)
        .map(move |key| async move { (key, storage.get_bytes(&key, T::MAX_BYTES).await) })
        .buffer_unordered(READS);
    let records = reads.filter_map(move |(key, bytes)| {
        let read = match bytes {
            Ok(Some(bytes)) => {
                let record = StoredRecord {
                    key,
                    bytes: bytes.len() as u64,
                };
                Some(Ok((record, parse(secret, &key, &bytes))))
            }
            // Deleted meanwhile, or reported by the check of all objects.
            Ok(None) | Err(StorageError::TooLarge { .. } | StorageError::Truncated { .. }) => None,
            Err(error) => Some(Err(error)),
        };
        std::future::ready(read)
    });
    Ok(records)
}

/// Returns the record if it can be used, and notes one that is not for its key.
fn usable<T>(
    defects: &mut Defects,
    record: StoredRecord,
    parsed: Result<T, RecordError>,
) -> Option<T> {
    match parsed {
        Ok(parsed) => return Some(parsed),
        // It counts as missing.
        Err(RecordError::Versioned(_)) => {}
        Err(error) => refuse(defects, record, error.to_string()),
    }
    None
}

fn names_of<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> BTreeSet<Vec<u8>> {
    let names = paths.into_iter().map(|path| {
        let name = path.as_str().rsplit('/').next();
        name.unwrap_or_default().as_bytes().to_vec()
    });
    names.collect()
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

/// Compares what records say of a layer with the layer, unless it is missing. Returns the places of
/// the records that are wrong, and what is wrong.
async fn check_layer(
    storage: &dyn Storage,
    layer: Digest,
    claims: BTreeMap<LayerClaim, Vec<usize>>,
) -> Result<Vec<(Vec<usize>, String)>, StorageError> {
    let key = Key::blob(layer);
    let Some(reader) = storage.get(&key, None).await? else {
        return Ok(Vec::new());
    };
    let size = reader.stat.size;
    // No more is unpacked than an honest record says.
    let limit = claims.keys().map(|claim| claim.tar_size).max();
    let limit = limit.unwrap_or_default();
    let names = claims.keys().filter_map(|claim| claim.names.as_ref());
    let most_names = names.map(BTreeSet::len).max();
    let most_names = most_names.unwrap_or_default();
    let (handle, body) = (Handle::current(), reader.body);
    let unpacking = tokio::task::spawn_blocking(move || {
        let body = BodyReader {
            handle,
            body,
            chunk: Bytes::new(),
        };
        unpack(body, limit, most_names)
    });
    let unpacked = unpacking.await.map_err(|error| StorageError::Failed {
        backend: storage.backend(),
        operation: Operation::Read,
        target: key.to_string(),
        retryable: false,
        source: error.into(),
    })?;
    let refused = claims.into_iter().filter_map(|(claim, records)| {
        let what = match &unpacked {
            _ if claim.size != size => "has another size than it says",
            Err(_) => "cannot be unpacked",
            Ok(facts) if claim.names.is_some_and(|names| names != facts.names) => {
                "has other store paths than it says"
            }
            Ok(facts) if (facts.diff_id, facts.tar_size) != (claim.diff_id, claim.tar_size) => {
                "unpacks to another tar than it says"
            }
            Ok(_) => return None,
        };
        Some((records, format!("the layer {layer} that it names {what}")))
    });
    Ok(refused.collect())
}

/// Unpacks at most one byte more than `limit` of a layer, and keeps at most one name more than
/// `most_names`.
///
/// The layer is not trusted: the memory that this needs does not depend on it.
fn unpack(mut body: BodyReader, limit: u64, most_names: usize) -> io::Result<LayerFacts> {
    body.fill()?;
    let start = body.chunk.clone();
    let tar = decoder(&start, body)?;
    let allowance = Cell::new(MAX_HEADERS);
    let mut hashed = HashedReader {
        inner: tar.take(limit.saturating_add(1)),
        digester: Digester::new(),
        allowance: &allowance,
    };
    let mut names = BTreeSet::new();
    let mut archive = tar::Archive::new(&mut hashed);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_gnu_sparse() {
            // Its contents may be much longer than the tar.
            return Err(io::Error::other("it has a sparse file"));
        }
        if names.len() <= most_names {
            names.extend(store_path_name(&entry.path_bytes()));
        }
        allowance.set(u64::MAX);
        io::copy(&mut entry, &mut io::sink())?;
        allowance.set(MAX_HEADERS);
    }
    // The end of the tar, after the last entry.
    allowance.set(u64::MAX);
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
    let tar = decoder(start, start).ok()?.take(MAX_START);
    let mut archive = tar::Archive::new(tar);
    let mut names = archive.entries().ok()?.map_while(Result::ok);
    names.find_map(|entry| store_path_name(&entry.path_bytes()))
}

/// Returns the name of the store path that an entry of a tar belongs to, or the start of a name
/// that is too long for one.
fn store_path_name(entry: &[u8]) -> Option<Vec<u8>> {
    let name = entry.strip_prefix(STORE)?;
    let name = name.split(|byte| *byte == b'/').next();
    let name = name.filter(|name| !name.is_empty())?;
    Some(name[..name.len().min(MAX_NAME)].to_vec())
}

/// Returns the tar of a compressed layer that begins with `start`.
fn decoder<'a>(start: &[u8], layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(if start.starts_with(&ZSTD_MAGIC) {
        let mut decoder = zstd::Decoder::new(layer)?;
        decoder.window_log_max(MAX_ZSTD_WINDOW)?;
        Box::new(decoder)
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
struct HashedReader<'a, R> {
    inner: R,
    digester: Digester,
    /// How many bytes may be read until it is renewed.
    allowance: &'a Cell<u64>,
}

impl<R: Read> Read for HashedReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowance = self.allowance.get();
        if allowance == 0 {
            return Err(io::Error::other("an entry of its tar has too long headers"));
        }
        let most = usize::try_from(allowance).unwrap_or(usize::MAX);
        let most = buffer.len().min(most);
        let size = self.inner.read(&mut buffer[..most])?;
        self.allowance.set(allowance - size as u64);
        self.digester.update(&buffer[..size]);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nixery_core::{NarHash, PackedLayer};
    use nixery_manifest::Compression;
    use nixery_storage::{MemoryStorage, PutMode};
    use rstest::rstest;
    use tar::{EntryType, Header};

    use super::*;
    use crate::record::save;
    use crate::testing::world::store_path;

    fn entry(kind: EntryType, name: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_path(name).expect("short");
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o444);
        header.set_cksum();
        header
    }

    /// A tar with a file below `nix/store/<name>/` whose own name has `letters` letters.
    fn tar_of_long_name(name: &str, letters: usize) -> Vec<u8> {
        let path = format!("nix/store/{name}/{}", "a".repeat(letters));
        let long = entry(EntryType::GNULongName, "././@LongLink", path.len() as u64);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&long, path.as_bytes()).expect("in memory");
        let file = entry(EntryType::Regular, "file", 5);
        tar.append(&file, &b"hello"[..]).expect("in memory");
        tar.into_inner().expect("in memory")
    }

    /// Returns the tar as zstd, and the record that describes it.
    fn layer_of(tar: &[u8], window: u32, path: &StorePath) -> (Vec<u8>, LayerRecord) {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("in memory");
        encoder.window_log(window).expect("valid");
        encoder.write_all(tar).expect("in memory");
        let blob = encoder.finish().expect("in memory");
        let nar_hash = format!("sha256:{}", Digest::of(b"nar").hex());
        let record = LayerRecord {
            layer: PackedLayer {
                digest: Digest::of(&blob),
                diff_id: Digest::of(tar),
                size: blob.len() as u64,
                tar_size: tar.len() as u64,
                compression: Compression::Zstd,
            },
            contents: vec![(path.clone(), NarHash::parse(&nar_hash).expect("valid"))],
        };
        (blob, record)
    }

    /// Returns what the verification of the record reports.
    async fn verify(blob: Vec<u8>, record: &LayerRecord) -> Vec<Defect> {
        let storage = MemoryStorage::new();
        let key = Key::blob(record.layer.digest);
        let put = storage.put(&key, blob.into(), PutMode::Replace).await;
        let _ = put.expect("put");
        let key = Key::new(BUILDS, Digest::of(b"key"));
        let saved = save(&storage, None, &key, record).await;
        saved.expect("saved");
        let defects = verify_records(&storage, None, &BTreeSet::new(), |_, _| ()).await;
        defects.expect("works")
    }

    /// A few kilobytes of zstd may unpack to gigabytes. A name is in memory, so that a long one is
    /// not read to its end.
    #[rstest]
    #[case::usual(300, 21, true)]
    #[case::long_name(8 * 1024 * 1024, 21, false)]
    #[case::large_window(300, 27, false)]
    #[tokio::test]
    async fn a_layer_that_needs_much_memory_is_not_unpacked(
        #[case] letters: usize,
        #[case] window: u32,
        #[case] is_sound: bool,
    ) {
        let path = store_path("git");
        let name = path.as_str().rsplit('/').next().expect("a name");
        let tar = tar_of_long_name(name, letters);
        let (blob, record) = layer_of(&tar, window, &path);
        assert!(blob.len() < 16 * 1024, "{}", blob.len());
        assert_eq!(record.begins_with(&blob), is_sound);
        let defects = verify(blob, &record).await;
        assert_eq!(defects.is_empty(), is_sound, "{defects:?}");
        let refused = format!("{defects:?}").contains("cannot be unpacked");
        assert_eq!(refused, !is_sound, "{defects:?}");
    }

    /// A store may have a hundred thousand images with the same layers of thousands of store paths.
    #[test]
    fn what_many_records_say_of_a_layer_is_kept_once() {
        let claim = |path: &str| LayerClaim {
            size: 1,
            tar_size: 2,
            diff_id: Digest::of(b"tar"),
            names: Some(names_of([&store_path(path)])),
        };
        let mut claims = Claims::default();
        for n in 0..100_u8 {
            let record = StoredRecord {
                key: Key::new(MANIFESTS, Digest::of(&[n])),
                bytes: 3,
            };
            let path = if n == 42 { "other" } else { "git" };
            claims.add(record, [(Digest::of(b"layer"), claim(path))]);
        }
        let kept = &claims.layers[&Digest::of(b"layer")];
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[&claim("git")].len(), 99);
        let [wrong] = kept[&claim("other")][..] else {
            panic!("{kept:?}");
        };
        let key = claims.records[wrong].key;
        assert_eq!(key, Key::new(MANIFESTS, Digest::of(&[42])));
    }

    /// A layer with other store paths than its record says is refused without all of its names.
    #[tokio::test]
    async fn no_more_names_are_kept_than_a_record_has() {
        let mut tar = tar::Builder::new(Vec::new());
        for n in 0..1000 {
            let file = entry(EntryType::Regular, &format!("nix/store/{n}"), 0);
            tar.append(&file, io::empty()).expect("in memory");
        }
        let tar = tar.into_inner().expect("in memory");
        let body = BodyReader {
            handle: Handle::current(),
            body: stream::empty().boxed(),
            chunk: Bytes::from(zstd::encode_all(&tar[..], 3).expect("in memory")),
        };
        let limit = tar.len() as u64;
        let unpacking = tokio::task::spawn_blocking(move || unpack(body, limit, 7));
        let facts = unpacking.await.expect("no panic").expect("unpacked");
        assert_eq!((facts.names.len(), facts.tar_size), (8, limit));
    }
}
