//! An S3 server that answers as it is told and remembers what it was asked.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// One request: its first line, its headers with lowercase names, its body.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The value of header `name`; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }
}

/// An answer: status line after the version, further header lines, body.
#[derive(Debug, Clone)]
pub struct Answer(pub &'static str, pub &'static str, pub String);

impl Answer {
    /// A success without content, as a PUT has it.
    pub fn ok() -> Answer {
        Answer("200 OK", "ETag: \"0123\"\r\n", String::new())
    }

    /// A refusal in S3's form.
    pub fn error(status: &'static str, code: &str, message: &str) -> Answer {
        let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Answer(status, "", text)
    }
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    answers: Mutex<VecDeque<Answer>>,
    open: AtomicUsize,
}

/// A listening server; its threads end with the test process.
pub struct Mock {
    shared: Arc<Shared>,
    port: u16,
    scheme: &'static str,
}

impl Mock {
    /// Answers with `answers` in turn, then always with success.
    pub fn start(answers: impl IntoIterator<Item = Answer>) -> Mock {
        Mock::with_transport(answers, "http", serve)
    }

    /// The same over TLS, with a certificate for `localhost` that nobody signed.
    pub fn start_tls() -> Mock {
        let config = Arc::new(tls_config());
        Mock::with_transport([], "https", move |stream, state| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            serve(rustls::StreamOwned::new(connection, stream), state)
        })
    }

    /// Takes requests and never answers.
    pub fn start_silent() -> Mock {
        Mock::with_transport([], "http", |stream, state| {
            let mut reader = BufReader::new(stream);
            while let Some(request) = read_request(&mut reader)? {
                state.requests.lock().unwrap().push(request);
            }
            Ok(())
        })
    }

    fn with_transport(
        answers: impl IntoIterator<Item = Answer>,
        scheme: &'static str,
        serve: impl Fn(TcpStream, &Shared) -> std::io::Result<()> + Clone + Send + 'static,
    ) -> Mock {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        shared.answers.lock().unwrap().extend(answers);
        let state = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, serve) = (state.clone(), serve.clone());
                state.open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let _ = serve(stream, &state);
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Mock { shared, port, scheme }
    }

    /// `SCHEME://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// The requests so far, which are forgotten.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

fn tls_config() -> rustls::ServerConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificate = CertificateDer::from_pem_slice(include_bytes!("localhost.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("localhost.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

fn serve(stream: impl Read + Write, state: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let head = request.line.starts_with("HEAD");
        state.requests.lock().unwrap().push(request);
        let answer = state.answers.lock().unwrap().pop_front();
        let Answer(status, headers, body) = answer.unwrap_or_else(Answer::ok);
        let length = body.len();
        let head_text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n");
        let stream = reader.get_mut();
        stream.write_all(head_text.as_bytes())?;
        if !head {
            stream.write_all(body.as_bytes())?;
        }
        stream.flush()?;
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut text = String::new();
        reader.read_line(&mut text)?;
        let Some((name, value)) = text.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { line: line.trim_end().to_owned(), headers, body: Vec::new() };
    let length = request.header("content-length").parse().unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
