//! HTTP/1.1, as much of it as those need who only look: the bytes of GET and HEAD requests and of
//! their answers. No sockets.

/// Longest head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;

const END: &[u8] = b"\r\n\r\n";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to show: begins with a slash, and has neither query nor spaces.
    pub path: String,
    /// True if only the head of the answer is wanted.
    pub head_only: bool,
    /// True if whoever asks says that they read OpenMetrics text.
    pub openmetrics: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A line of text.
    pub fn line(status: u16, line: &str) -> Self {
        let (content_type, body) = ("text/plain; charset=utf-8", format!("{line}\n"));
        Answer { status, content_type, body }
    }

    /// Its bytes on the connection, which is closed behind it.
    pub fn bytes(&self, head_only: bool) -> Vec<u8> {
        let Answer { status, content_type, body } = self;
        let (reason, length) = (reason(*status), body.len());
        let allow = if *status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: \
             {length}\r\n\
             {allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        );
        [head.as_bytes(), if head_only { b"" } else { body.as_bytes() }].concat()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// The request whose head `input` begins with; `None` when the head is not complete yet. The error
/// is what to answer before the connection is closed.
pub fn request(input: &[u8]) -> Result<Option<Request>, Answer> {
    let within = &input[..input.len().min(MAX_HEAD_BYTES)];
    let line_end = within.windows(2).position(|pair| pair == b"\r\n");
    // Noise has no lines: it is not waited for.
    let line = &within[..line_end.unwrap_or(within.len())];
    if let Some(odd) = line.iter().find(|byte| !(b' '..=b'~').contains(byte) && **byte != b'\r') {
        return Err(bad(&format!("a request line has printable ASCII only, not byte {odd:#04x}")));
    }
    let end = within.windows(END.len()).position(|bytes| bytes == END);
    // What is no request is refused at its first line: a Pixii client sends no more than that.
    let request = line_end.map(|_| queried(line, &within[..end.unwrap_or(0)])).transpose()?;
    match request {
        Some(request) if end.is_some() => Ok(Some(request)),
        _ if within.len() < input.len() || within.len() == MAX_HEAD_BYTES => {
            let limit = format!("the head of a request has at most {MAX_HEAD_BYTES} bytes");
            Err(Answer::line(431, &limit))
        }
        _ => Ok(None),
    }
}

/// True if the head has an `Accept` that names OpenMetrics text.
fn takes_openmetrics(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let mut accepted = fields.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    accepted.any(|(_, types)| types.to_ascii_lowercase().contains("application/openmetrics-text"))
}

fn queried(line: &[u8], head: &[u8]) -> Result<Request, Answer> {
    let line = String::from_utf8_lossy(line);
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(bad("a request line is METHOD PATH HTTP/1.1"));
    };
    if !version.starts_with("HTTP/") {
        return Err(bad("a request line ends with HTTP/1.1"));
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(Answer::line(505, "HTTP/1.1 is spoken here"));
    }
    if method != "GET" && method != "HEAD" {
        return Err(Answer::line(405, "nothing can be changed here: GET and HEAD only"));
    }
    if !target.starts_with('/') {
        return Err(bad("a path begins with a slash"));
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    Ok(Request { path, head_only: method == "HEAD", openmetrics: takes_openmetrics(head) })
}

fn bad(why: &str) -> Answer {
    Answer::line(400, why)
}
