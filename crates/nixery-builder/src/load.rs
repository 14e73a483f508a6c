//! Loading a layer strategy's data from a URL or a file.

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;

use nixery_core::{ClusterPlan, MAX_FILE_BYTES, Popularity};

/// A kind of data.
struct Kind {
    name: &'static str,
    /// What it must be.
    needed: &'static str,
    /// Most bytes it may have.
    most: usize,
}

const POPULARITY: Kind = Kind {
    name: "popularity data",
    needed: "a JSON object of name to count",
    // nixpkgs' is about 4 MB.
    most: 256 << 20,
};

const PLAN: Kind = Kind {
    name: "a cluster plan",
    needed: "a file that 'nixery lab plan build' wrote",
    most: MAX_FILE_BYTES,
};

/// Loads popularity data, a JSON object of name → count, from an `http(s)://` or `file://` URL or
/// from a path.
///
/// # Errors
/// It cannot be read or fetched, is over 256 MiB, or is not such JSON.
pub async fn load_popularity(url_or_path: &str) -> Result<Popularity, LoadError> {
    load(&POPULARITY, url_or_path, Popularity::from_json).await
}

/// Loads a cluster plan from an `http(s)://` or `file://` URL or from a path.
///
/// # Errors
/// It cannot be read or fetched, is over 16 MiB, or is no plan, or a damaged one.
pub async fn load_cluster_plan(url_or_path: &str) -> Result<ClusterPlan, LoadError> {
    load(&PLAN, url_or_path, ClusterPlan::from_bytes).await
}

async fn load<T, E: Error + Send + Sync + 'static>(
    kind: &Kind,
    url_or_path: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, LoadError> {
    let what = kind.name;
    let location = || url_or_path.to_owned();
    let bytes = if url_or_path.starts_with("http://") || url_or_path.starts_with("https://") {
        http::fetch(kind, url_or_path).await?
    } else {
        let path = url_or_path
            .strip_prefix("file://")
            .unwrap_or(url_or_path)
            .to_owned();
        let most = kind.most;
        let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path), most)).await;
        read.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| LoadError::Read {
                what,
                location: location(),
                source,
            })?
    };
    if bytes.len() > kind.most {
        return Err(kind.too_large(url_or_path));
    }
    parse(&bytes).map_err(|source| LoadError::Parse {
        what,
        location: location(),
        needed: kind.needed,
        source: source.into(),
    })
}

/// The file, or a byte more than `most` of it.
fn read_file(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(feature = "http")]
mod http {
    use std::time::Duration;

    use super::{Kind, LoadError};

    /// How long fetching may take: it stands between the operator and the server's start.
    const TIMEOUT: Duration = Duration::from_secs(60);

    pub(super) async fn fetch(kind: &Kind, url: &str) -> Result<Vec<u8>, LoadError> {
        let failed = |source: reqwest::Error| LoadError::Fetch {
            what: kind.name,
            location: url.to_owned(),
            source: source.without_url().into(),
        };
        nixery_storage::install_tls_provider();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(failed)?;
        let mut response = client
            .get(url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > kind.most {
                return Err(kind.too_large(url));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

#[cfg(not(feature = "http"))]
mod http {
    use super::{Kind, LoadError};

    pub(super) async fn fetch(kind: &Kind, url: &str) -> Result<Vec<u8>, LoadError> {
        Err(LoadError::Fetch {
            what: kind.name,
            location: url.to_owned(),
            source: "this program is built without the feature `http`".into(),
        })
    }
}

impl Kind {
    fn too_large(&self, location: &str) -> LoadError {
        LoadError::TooLarge {
            what: self.name,
            location: location.to_owned(),
            most: self.most >> 20,
            needed: self.needed,
        }
    }
}

/// Why a strategy's data could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {what} from {location}")]
    Read {
        /// The kind of data.
        what: &'static str,
        /// URL or path as given.
        location: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The URL cannot be fetched.
    #[error("cannot fetch {what} from {location}")]
    Fetch {
        /// The kind of data.
        what: &'static str,
        /// The URL as given.
        location: String,
        /// The client's error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It is too long.
    #[error("{location} is over {most} MiB, too much for {what}: it must be {needed}")]
    TooLarge {
        /// The kind of data.
        what: &'static str,
        /// URL or path as given.
        location: String,
        /// Most MiB that are allowed.
        most: usize,
        /// What it must be.
        needed: &'static str,
    },
    /// It is something else.
    #[error("{location} cannot be used as {what}: it must be {needed}")]
    Parse {
        /// The kind of data.
        what: &'static str,
        /// URL or path as given.
        location: String,
        /// What it must be.
        needed: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

// They fetch from a server of their own.
#[cfg(all(test, feature = "http"))]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use nixery_core::{PlannedPackage, StorePath};

    use super::*;

    const JSON: &str = r#"{"glibc-2.38":7}"#;

    fn glibc() -> StorePath {
        StorePath::parse("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.38").expect("valid")
    }

    fn plan() -> ClusterPlan {
        let glibc = PlannedPackage {
            name: "glibc".to_owned(),
            cluster: "glibc".to_owned(),
            samples: 9,
        };
        ClusterPlan::new("demo".to_owned(), 10, [glibc]).expect("a plan")
    }

    /// Answers one request with `status` and `body`.
    fn serve(status: &str, body: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("http://{}/data", listener.local_addr().expect("bound"));
        let length = body.len();
        let mut response =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        response.extend_from_slice(body);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&response);
        });
        url
    }

    /// A file with `bytes`, its path, and as URL.
    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, String, String) {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), bytes).expect("writes");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        let url = format!("file://{path}");
        (file, path, url)
    }

    #[tokio::test]
    async fn popularity_from_paths_and_urls() {
        let (_file, path, url) = file(JSON.as_bytes());
        for location in [path, url, serve("200 OK", JSON.as_bytes())] {
            let popularity = load_popularity(&location).await.expect("loads");
            assert_eq!(popularity.get(&glibc()), 7, "{location}");
        }
    }

    #[tokio::test]
    async fn plans_from_paths_and_urls() {
        let (_file, path, url) = file(&plan().to_bytes());
        for location in [path, url, serve("200 OK", &plan().to_bytes())] {
            let loaded = load_cluster_plan(&location).await.expect("loads");
            assert_eq!(loaded, plan(), "{location}");
        }
    }

    #[tokio::test]
    async fn failures_name_the_location() {
        let (_other, other, _) = file(b"[]");
        let nowhere = "/nonexistent/data".to_owned();
        for location in [nowhere, other, serve("404 Not Found", b"")] {
            let error = load_popularity(&location).await.expect_err("fails");
            assert!(error.to_string().contains(&location), "{error}");
        }
        let whole = plan().to_bytes();
        let (_cut, cut, _) = file(&whole[..whole.len() - 1]);
        let (_large, large, _) = file(&vec![0; MAX_FILE_BYTES + 1]);
        let nowhere = "/nonexistent/plan".to_owned();
        for (location, expected) in [
            (nowhere, "cannot read a cluster plan from"),
            (
                cut,
                "cannot be used as a cluster plan: it must be a file that 'nixery lab plan build' wrote",
            ),
            (large, "over 16 MiB"),
            (serve("500 Oops", b""), "cannot fetch a cluster plan from"),
        ] {
            let error = load_cluster_plan(&location)
                .await
                .expect_err("fails")
                .to_string();
            assert!(
                error.contains(&location) && error.contains(expected),
                "{error}"
            );
        }
    }
}
