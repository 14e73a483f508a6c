//! A bucket of an engine: how Nixery is configured for it, and how a test accesses it directly.
//!
//! The requests are curl's, so that the tests do not judge the storage crate by itself.

use crate::http::{Response, attempt};

/// How a bucket's engine is reached.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// S3 with path-style addresses and signed requests.
    S3 {
        port: u16,
        access_key: &'static str,
        secret_key: &'static str,
    },
    /// The JSON interface of Google Cloud Storage, anonymous.
    Gcs { port: u16 },
}

/// One bucket, used by one test.
#[derive(Debug, Clone)]
pub struct Bucket {
    access: Access,
    name: String,
}

impl Bucket {
    pub(super) fn new(access: Access, name: &str) -> Self {
        Self {
            access,
            name: name.to_owned(),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port of the engine.
    pub fn port(&self) -> u16 {
        match self.access {
            Access::S3 { port, .. } | Access::Gcs { port } => port,
        }
    }

    /// The settings that make Nixery use this bucket.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_through(self.port())
    }

    /// The same, with the requests going through a proxy at that port.
    pub fn environment_through(&self, port: u16) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let settings = match &self.access {
            Access::S3 {
                access_key,
                secret_key,
                ..
            } => vec![
                ("NIXERY_STORAGE_BACKEND", "s3"),
                ("NIXERY_S3_BUCKET", &self.name),
                ("NIXERY_S3_ENDPOINT", &endpoint),
                ("NIXERY_S3_REGION", "us-east-1"),
                ("NIXERY_S3_ADDRESSING", "path"),
                ("AWS_ACCESS_KEY_ID", access_key),
                ("AWS_SECRET_ACCESS_KEY", secret_key),
            ],
            Access::Gcs { .. } => vec![
                ("NIXERY_STORAGE_BACKEND", "gcs"),
                ("GCS_BUCKET", &self.name),
                ("NIXERY_GCS_ENDPOINT", &endpoint),
                ("NIXERY_GCS_ANONYMOUS", "true"),
            ],
        };
        settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The names of all objects, in the engine's order.
    ///
    /// # Panics
    /// The engine does not answer as expected.
    #[track_caller]
    pub fn list(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut marker = String::new();
        loop {
            let (page, next) = self.list_page(&marker);
            names.extend(page);
            match next {
                Some(next) => marker = next,
                None => return names,
            }
        }
    }

    /// An object's bytes; `None` where there is no such object.
    ///
    /// # Panics
    /// The engine does not answer as expected.
    #[track_caller]
    pub fn get(&self, object: &str) -> Option<Vec<u8>> {
        let query = match self.access {
            Access::S3 { .. } => "",
            Access::Gcs { .. } => "?alt=media",
        };
        let answer = self
            .request(&[], &format!("{}{query}", self.object_path(object)))
            .unwrap_or_else(|said| panic!("{said}"));
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            _ => panic!("GET {object}: {} {}", answer.status, answer.text()),
        }
    }

    /// Stores an object, over one of the same name.
    ///
    /// # Panics
    /// The engine does not answer as expected.
    #[track_caller]
    pub fn put(&self, object: &str, bytes: &[u8]) {
        self.try_put(object, bytes)
            .unwrap_or_else(|said| panic!("{said}"));
    }

    /// Removes an object.
    ///
    /// # Panics
    /// The engine does not answer as expected.
    #[track_caller]
    pub fn delete(&self, object: &str) {
        let answer = self
            .request(&["-X", "DELETE"], &self.object_path(object))
            .and_then(accepted);
        answer.unwrap_or_else(|said| panic!("{said}"));
    }

    /// Makes the bucket; one that is there counts as made.
    pub(super) fn create(&self) -> Result<(), String> {
        let answer = match self.access {
            Access::S3 { .. } => self.request(&["-X", "PUT"], &format!("/{}", self.name)),
            Access::Gcs { .. } => {
                let body = serde_json::json!({ "name": self.name }).to_string();
                self.request(&["--json", &body], "/storage/v1/b")
            }
        }?;
        if answer.status == 409 {
            return Ok(());
        }
        accepted(answer).map(drop)
    }

    pub(super) fn try_put(&self, object: &str, bytes: &[u8]) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().expect("a scratch file");
        std::fs::write(file.path(), bytes).expect("the scratch file is writable");
        let path = file.path().display().to_string();
        let answer = match self.access {
            // curl cannot hash what it uploads from a file.
            Access::S3 { .. } => self.request(
                &["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-T", &path],
                &self.object_path(object),
            ),
            Access::Gcs { .. } => self.request(
                &["--data-binary", &format!("@{path}")],
                &format!(
                    "/upload/storage/v1/b/{}/o?uploadType=media&name={}",
                    self.name,
                    object.replace('/', "%2F")
                ),
            ),
        };
        answer.and_then(accepted).map(drop)
    }

    fn list_page(&self, marker: &str) -> (Vec<String>, Option<String>) {
        match self.access {
            Access::S3 { .. } => {
                // Version 1 of the listing: its marker is a name, in order and safe in a URL for
                // all our names.
                let path = format!("/{}?marker={}", self.name, marker.replace('/', "%2F"));
                let text = self
                    .request(&[], &path)
                    .and_then(accepted)
                    .unwrap_or_else(|said| panic!("{said}"))
                    .text();
                let names: Vec<String> = text
                    .split("<Key>")
                    .skip(1)
                    .filter_map(|rest| rest.split_once("</Key>"))
                    .map(|(name, _)| name.to_owned())
                    .collect();
                let more = text.contains("<IsTruncated>true</IsTruncated>");
                let next = names.last().filter(|_| more).cloned();
                (names, next)
            }
            Access::Gcs { .. } => {
                let path = format!("/storage/v1/b/{}/o?pageToken={marker}", self.name);
                let page = self
                    .request(&[], &path)
                    .and_then(accepted)
                    .unwrap_or_else(|said| panic!("{said}"))
                    .json();
                let items = page["items"].as_array().cloned().unwrap_or_default();
                let names = items
                    .iter()
                    .map(|item| item["name"].as_str().expect("a name").to_owned())
                    .collect();
                (names, page["nextPageToken"].as_str().map(str::to_owned))
            }
        }
    }

    fn object_path(&self, object: &str) -> String {
        match self.access {
            Access::S3 { .. } => format!("/{}/{object}", self.name),
            Access::Gcs { .. } => format!(
                "/storage/v1/b/{}/o/{}",
                self.name,
                object.replace('/', "%2F")
            ),
        }
    }

    fn request(&self, arguments: &[&str], path: &str) -> Result<Response, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port());
        let user;
        let mut all = match &self.access {
            Access::S3 {
                access_key,
                secret_key,
                ..
            } => {
                user = format!("{access_key}:{secret_key}");
                vec!["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user]
            }
            Access::Gcs { .. } => Vec::new(),
        };
        all.extend(arguments);
        all.push(&url);
        attempt(&all)
    }
}

/// The answer if it says success.
fn accepted(answer: Response) -> Result<Response, String> {
    match answer.status {
        200..=299 => Ok(answer),
        status => Err(format!("the engine answered {status}: {}", answer.text())),
    }
}
