//! Loading popularity data from a URL or a file.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use nixery_core::popularity::{Popularity, PopularityError};

/// Most bytes popularity data may have. nixpkgs' is about 4 MB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How long fetching it may take: it stands between the operator and the server's start.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Loads popularity data, a JSON object of name → count, from an `http(s)://` or `file://` URL or
/// from a path.
///
/// # Errors
/// It cannot be read or fetched, is over 256 MiB, or is not such JSON.
pub async fn load_popularity(url_or_path: &str) -> Result<Popularity, LoadPopularityError> {
    let location = || url_or_path.to_owned();
    let bytes = if url_or_path.starts_with("http://") || url_or_path.starts_with("https://") {
        fetch(url_or_path).await?
    } else {
        let path = url_or_path
            .strip_prefix("file://")
            .unwrap_or(url_or_path)
            .to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path))).await;
        read.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| LoadPopularityError::Read {
                location: location(),
                source,
            })?
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(LoadPopularityError::TooLarge {
            location: location(),
        });
    }
    Popularity::from_json(&bytes).map_err(|source| LoadPopularityError::Parse {
        location: location(),
        source,
    })
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn fetch(url: &str) -> Result<Vec<u8>, LoadPopularityError> {
    let failed = |source| LoadPopularityError::Fetch {
        location: url.to_owned(),
        source,
    };
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .map_err(failed)?;
    let mut response = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| failed(error.without_url()))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| failed(error.without_url()))?
    {
        if (bytes.len() + chunk.len()) as u64 > MAX_BYTES {
            return Err(LoadPopularityError::TooLarge {
                location: url.to_owned(),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Why popularity data could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadPopularityError {
    /// The file cannot be read.
    #[error("cannot read popularity data from {location}")]
    Read {
        /// URL or path as given.
        location: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The URL cannot be fetched.
    #[error("cannot fetch popularity data from {location}")]
    Fetch {
        /// The URL as given.
        location: String,
        /// The client's error.
        #[source]
        source: reqwest::Error,
    },
    /// It is too long.
    #[error(
        "popularity data at {location} is over 256 MiB: it must be a JSON object of name to count"
    )]
    TooLarge {
        /// URL or path as given.
        location: String,
    },
    /// It is not popularity data.
    #[error("{location} holds no popularity data: it must be a JSON object of name to count")]
    Parse {
        /// URL or path as given.
        location: String,
        /// What is wrong with it.
        #[source]
        source: PopularityError,
    },
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use nixery_core::StorePath;

    use super::*;

    const JSON: &str = r#"{"glibc-2.38":7}"#;

    fn glibc() -> StorePath {
        StorePath::parse("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.38").expect("valid")
    }

    /// Answers one request with `response`.
    fn serve(response: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!(
            "http://{}/popularity.json",
            listener.local_addr().expect("bound")
        );
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(response.as_bytes());
        });
        url
    }

    #[tokio::test]
    async fn from_paths_and_urls() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), JSON).expect("writes");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        let length = JSON.len();
        let url = serve(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{JSON}"
        ));
        for location in [path.clone(), format!("file://{path}"), url] {
            let popularity = load_popularity(&location).await.expect("loads");
            assert_eq!(popularity.get(&glibc()), 7, "{location}");
        }
    }

    #[tokio::test]
    async fn failures_name_the_location() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), "[]").expect("writes");
        let not_json = file.path().to_str().expect("UTF-8").to_owned();
        let not_found = serve("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned());
        for location in [
            "/nonexistent/popularity.json".to_owned(),
            not_json,
            not_found,
        ] {
            let error = load_popularity(&location).await.expect_err("fails");
            assert!(error.to_string().contains(&location), "{error}");
        }
    }
}
