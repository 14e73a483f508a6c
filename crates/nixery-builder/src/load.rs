//! Loads a layer strategy's data from a URL or a file.

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;

use nixery_core::{ByteSize, ClusterPlan, MAX_FILE_BYTES, Popularity};

/// What is loaded, and what it must be.
#[derive(Debug, Clone, Copy)]
struct DataFormat {
    name: &'static str,
    required: &'static str,
    max_bytes: usize,
}

const POPULARITY: DataFormat = DataFormat {
    name: "popularity data",
    required: "a JSON object that maps names to counts",
    // The file for nixpkgs has about 4 MB.
    max_bytes: 256 << 20,
};

const PLAN: DataFormat = DataFormat {
    name: "a cluster plan",
    required: "a file that `nixery lab plan build` wrote",
    max_bytes: MAX_FILE_BYTES,
};

/// Why a strategy's data could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct LoadError {
    problem: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Loads popularity data, a JSON object of name → count, from an `http(s)://` or `file://` URL or
/// from a path.
///
/// # Errors
/// The data cannot be read or fetched, is over 256 MiB, or is not such JSON.
pub async fn load_popularity(url_or_path: &str) -> Result<Popularity, LoadError> {
    load(POPULARITY, url_or_path, Popularity::from_json).await
}

/// Loads a cluster plan from an `http(s)://` or `file://` URL or from a path.
///
/// # Errors
/// The plan cannot be read or fetched, is over 16 MiB, or is not an undamaged plan.
pub async fn load_cluster_plan(url_or_path: &str) -> Result<ClusterPlan, LoadError> {
    load(PLAN, url_or_path, ClusterPlan::from_bytes).await
}

/// Loads a document from an `http(s)://` or `file://` URL or from a path. `name` is its name in
/// messages: "a JSON Web Key Set".
///
/// # Errors
/// The document cannot be read or fetched, or has more than `max_bytes`.
pub async fn load_document(
    name: &'static str,
    url_or_path: &str,
    max_bytes: usize,
) -> Result<Vec<u8>, LoadError> {
    let format = DataFormat {
        name,
        required: name,
        max_bytes,
    };
    let copy = |bytes: &[u8]| Ok::<_, std::convert::Infallible>(bytes.to_vec());
    load(format, url_or_path, copy).await
}

async fn load<T, E: Error + Send + Sync + 'static>(
    format: DataFormat,
    location: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, LoadError> {
    let DataFormat {
        name,
        required,
        max_bytes,
    } = format;
    let error = |problem, source| LoadError { problem, source };
    let (verb, bytes) = if location.starts_with("http://") || location.starts_with("https://") {
        ("fetch", fetch(location, max_bytes).await)
    } else {
        let path = location.strip_prefix("file://").unwrap_or(location);
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path), max_bytes));
        let read = read
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        ("read", read.map_err(Into::into))
    };
    let bytes = bytes.map_err(|source| {
        error(
            format!("cannot {verb} {name} from {location}"),
            Some(source),
        )
    })?;
    if bytes.len() > max_bytes {
        let max = ByteSize(max_bytes as u64);
        let problem = format!("{location} has over {max}, too much for {name}");
        return Err(error(problem, None));
    }
    parse(&bytes).map_err(|source| {
        let problem = format!("{location} cannot be used as {name}: it must be {required}");
        error(problem, Some(source.into()))
    })
}

/// Reads the file, or one byte more than `max_bytes` of it.
fn read_file(path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Fetches the URL, or somewhat more than `max_bytes` of it.
#[cfg(feature = "http")]
async fn fetch(url: &str, max_bytes: usize) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    /// The server starts only after the data is there.
    const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

    nixery_storage::install_tls_provider();
    let fetch = async {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let response = client.get(url).send().await?;
        let mut response = response.error_for_status()?;
        let mut bytes = Vec::new();
        while bytes.len() <= max_bytes
            && let Some(chunk) = response.chunk().await?
        {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    fetch
        .await
        .map_err(|error: reqwest::Error| error.without_url().into())
}

#[cfg(not(feature = "http"))]
async fn fetch(_: &str, _: usize) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    Err("this program is built without the feature `http`".into())
}

// The tests fetch from a server of their own.
#[cfg(feature = "http")]
#[cfg(test)]
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
                "cannot be used as a cluster plan: it must be a file that `nixery lab plan build` wrote",
            ),
            (large, "has over 16.8 MB, too much for a cluster plan"),
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
