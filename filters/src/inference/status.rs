use super::{Code, Metadata};

/// A server's verdict that it has no answer: its code, its words and its details.
///
/// It reaches every caller whose rows were in the call just as the server said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    message: String,
    headers: Metadata,
    trailers: Metadata,
}

impl Status {
    /// Makes a verdict of a code and the server's words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            headers: Metadata::default(),
            trailers: Metadata::default(),
        }
    }

    /// Adds the headers that the server sent with its verdict, details among them.
    pub fn with_metadata(self, headers: Metadata, trailers: Metadata) -> Self {
        Self {
            headers,
            trailers,
            ..self
        }
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the server's words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the headers that came before the verdict.
    pub fn headers(&self) -> &Metadata {
        &self.headers
    }

    /// Returns the headers that came with or after the verdict.
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server answered {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}
