//! Why a head or a body was refused: one stable name each, for the log, the metrics and the answer.
//!
//! The enums carry blame by type: [`RequestError`] is the client's, [`ResponseError`] the origin's, and a
//! [`ChunkError`] belongs to whoever sent the body. Faults that both kinds of head can have are listed once and appear
//! in both enums. How a refusal looks on the wire is [`super::error_response`]'s.

use std::fmt;

/// Defines an enum of faults with `ALL`, `reason()` and `Display` from rows of variant, status, reason and text.
macro_rules! fault_enum {
    ([$(#[$meta:meta])* $name:ident] $($variant:ident $status:literal $reason:literal $text:literal;)*) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// Every member, so that counters can be registered before the first event.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name used in metrics, logs and answers.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }

        impl std::error::Error for $name {}
    };
}

/// The same, with the statuses of the rows.
macro_rules! client_fault_enum {
    ([$(#[$meta:meta])* $name:ident] $($variant:ident $status:literal $reason:literal $text:literal;)*) => {
        fault_enum! { [$(#[$meta])* $name] $($variant $status $reason $text;)* }

        impl $name {
            /// The status of the answer where the client is to blame.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

/// The shared faults alone, for code that serves both kinds of head.
macro_rules! shared_enum {
    ([] $($variant:ident $status:literal $reason:literal $text:literal;)*) => {
        /// What both kinds of head can have; converted into the enum of the one to blame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum HeadFault {
            $(#[doc = $text] $variant,)*
        }
    };
}

/// The faults that requests and responses share, handed to another macro after its own arguments.
macro_rules! with_head_faults {
    ($callback:ident [$($head:tt)*] $($own:tt)*) => {
        $callback! {
            [$($head)*]
            $($own)*
            BareLf 400 "bare_lf" "a line ends in LF without CR";
            BareCr 400 "bare_cr" "CR is not followed by LF";
            Nul 400 "nul_byte" "the head contains a NUL byte";
            ControlCharacter 400 "control_character" "a field value contains a control character";
            ObsFold 400 "obs_fold" "a field line begins with whitespace (obsolete line folding)";
            SpaceBeforeColon 400 "space_before_colon" "whitespace stands between a field name and its colon";
            FieldName 400 "invalid_field_name" "a field name is empty, has no colon or is not a token";
            EmptyLines 400 "leading_empty_lines" "empty lines precede the start line";
            MalformedHead 400 "malformed_head" "the head does not follow the grammar";
            HeadTooLarge 431 "head_too_large" "the head has more bytes than allowed";
            TooManyFields 431 "too_many_fields" "the head has more fields than allowed";
            LengthAndEncoding 400 "content_length_and_transfer_encoding"
                "Content-Length and Transfer-Encoding come together";
            EncodingInHttp10 400 "transfer_encoding_in_http10" "Transfer-Encoding in an HTTP/1.0 message";
            RepeatedEncoding 400 "repeated_transfer_encoding" "Transfer-Encoding, or chunked within it, is repeated";
            ChunkedNotFinal 400 "chunked_not_final" "chunked is not the final transfer coding";
            UnknownCoding 501 "unknown_transfer_coding" "a transfer coding other than chunked is used";
            MalformedEncoding 400 "malformed_transfer_encoding" "the Transfer-Encoding field is malformed";
            RepeatedLength 400 "repeated_content_length" "Content-Length is repeated or a list";
            MalformedLength 400 "malformed_content_length" "Content-Length is not a decimal number";
            LengthOverflow 400 "content_length_overflow" "Content-Length exceeds the largest possible length";
            FramingAlias 400 "framing_alias"
                "a field name turns into Content-Length or Transfer-Encoding when punctuation is folded";
            ConnectionOption 400 "malformed_connection" "the Connection field is malformed or too long";
            ConnectionNominates 400 "connection_nominates_end_to_end"
                "the Connection field nominates a field that is meant for the final recipient";
        }
    };
}

with_head_faults! { shared_enum [] }

with_head_faults! { client_fault_enum [
    /// Why a request was refused. The connection is to be closed after the answer: its framing is not trustworthy.
    RequestError
]
    LeadingWhitespace 400 "leading_whitespace" "whitespace precedes the request line";
    RequestLine 400 "malformed_request_line" "the request line is not `method SP target SP version`";
    Http2Preface 505 "http2_preface" "an HTTP/2 connection preface where HTTP/1.1 is spoken";
    Version 505 "unsupported_version" "the version is neither HTTP/1.1 nor HTTP/1.0";
    Connect 405 "method_connect" "CONNECT is not offered";
    Trace 405 "method_trace" "TRACE is not offered";
    TargetTooLong 414 "target_too_long" "the request target has more bytes than allowed";
    TargetCharacter 400 "invalid_target" "the request target contains a character or escape that is not allowed";
    TargetFragment 400 "target_fragment" "the request target contains a fragment";
    TargetForm 400 "target_form" "the form of the request target does not fit the method";
    TargetScheme 400 "target_scheme" "the request target has a scheme other than http or https";
    MissingHost 400 "missing_host" "an HTTP/1.1 request has no Host field";
    RepeatedHost 400 "repeated_host" "the Host field is repeated";
    InvalidHost 400 "invalid_host" "the host is not a name or address with an optional port";
    Expectation 417 "expectation_failed" "an expectation other than 100-continue";
    MaxForwards 400 "malformed_max_forwards" "Max-Forwards is repeated or not a decimal number";
    BodyTooLarge 413 "body_too_large" "the body has more bytes than allowed";
}

with_head_faults! { fault_enum [
    /// Why a response of the origin was refused. The origin connection is to be destroyed.
    ResponseError
]
    StatusLine 502 "malformed_status_line" "the status line is not `version SP 3DIGIT SP reason`";
    Version 502 "unsupported_version" "the version is neither HTTP/1.1 nor HTTP/1.0";
    Status 502 "invalid_status" "the status code is outside 100 to 599";
    Upgrade 502 "unrequested_upgrade" "101 without Upgrade having been passed on";
    Protocol 502 "upgrade_not_offered" "101 that does not name, as it must, a protocol that was asked for";
}

impl ResponseError {
    /// The status of the answer given to the client: 502 for all (RFC 9112 6.3, item 3 and RFC 9110 15.6.3).
    #[must_use]
    pub const fn status(self) -> u16 {
        502
    }
}

client_fault_enum! { [
    /// Why a chunked body was refused; 502 is due instead of its status when the origin sent the body.
    ChunkError
]
    Size 400 "malformed_chunk_size" "a chunk size is not a hexadecimal number";
    SizeOverflow 400 "chunk_size_overflow" "a chunk size has more than 16 digits or the sum exceeds 64 bits";
    SizeLineEnd 400 "malformed_chunk_line" "a chunk size line does not end in CRLF";
    DataEnd 400 "malformed_chunk_end" "chunk data is not followed by CRLF";
    Extension 400 "malformed_chunk_extension" "a chunk extension is neither a name nor a name with a value";
    ExtensionsTooLong 400 "chunk_extensions_too_long" "chunk extensions have more bytes than allowed";
    Trailer 400 "malformed_trailer" "the trailer section does not follow the grammar";
    TrailersTooLarge 431 "trailers_too_large" "the trailer section has more bytes than allowed";
    TooManyTrailers 431 "too_many_trailers" "the trailer section has more fields than allowed";
    BodyTooLarge 413 "body_too_large" "the body has more bytes than allowed";
}

/// Conversions of the shared faults.
macro_rules! from_head_fault {
    ([$name:ident] $($variant:ident $status:literal $reason:literal $text:literal;)*) => {
        impl From<HeadFault> for $name {
            fn from(fault: HeadFault) -> Self {
                match fault { $(HeadFault::$variant => Self::$variant,)* }
            }
        }
    };
}

with_head_faults! { from_head_fault [RequestError] }
with_head_faults! { from_head_fault [ResponseError] }
