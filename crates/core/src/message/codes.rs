//! Reasons as codes. A node sends a number and the data that belongs to it; the sentence is made
//! where somebody reads it.

use bincode::BorrowDecode;
use bincode::error::DecodeError;
use bytes::Bytes;

use crate::types::Blob;
use crate::wire;

/// Defines an enum whose variants have numbers that never change. On the wire it is the number, a
/// `u16`, and its fields as bytes with their length. So a program that does not know a number reads
/// past its fields, keeps both as `Other`, and passes them on as they came.
///
/// A number is used once: what is to be said with other fields gets a new one, at the end.
macro_rules! codes {
    (
        $(#[$($about:tt)*])*
        pub enum $name:ident {
            $(
                $(#[$($of_variant:tt)*])*
                $variant:ident
                $({ $( $(#[$($of_field:tt)*])* $field:ident: $type:ty ),+ $(,)? })?
                = $code:literal
            ),+ $(,)?
        }
    ) => {
        $(#[$($about)*])*
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum $name {
            $(
                $(#[$($of_variant)*])*
                $variant $({ $( $(#[$($of_field)*])* $field: $type ),+ })?,
            )+
            /// In words, as programs of protocol 6 say it. Its code is 0.
            #[error("{0}")]
            Text(String),
            /// A code that this program does not know, of a later one, and its fields.
            #[error("something that this program has no words for (code {0})")]
            Other(u16, $crate::types::Blob),
        }

        impl $name {
            /// The codes that this program knows, besides 0.
            pub const CODES: &'static [u16] = &[$($code),+];

            /// The number on the wire.
            pub fn code(&self) -> u16 {
                match self {
                    $( $name::$variant $({ $( $field: _ ),+ })? => $code, )+
                    $name::Text(_) => 0,
                    $name::Other(code, _) => *code,
                }
            }
        }

        impl bincode::Encode for $name {
            fn encode<E: bincode::enc::Encoder>(
                &self,
                encoder: &mut E,
            ) -> Result<(), bincode::error::EncodeError> {
                let fields = match self {
                    $(
                        $name::$variant $({ $( $field ),+ })? => {
                            $crate::wire::encode(&($( $( $field, )+ )?))
                        }
                    )+
                    $name::Text(text) => $crate::wire::encode(text),
                    $name::Other(_, fields) => fields.0.to_vec(),
                };
                self.code().encode(encoder)?;
                fields.encode(encoder)
            }
        }

        impl<'de> bincode::BorrowDecode<'de, bytes::Bytes> for $name {
            fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = bytes::Bytes>>(
                decoder: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                let code = u16::borrow_decode(decoder)?;
                let fields = $crate::types::Blob::borrow_decode(decoder)?;
                Ok(match code {
                    0 => $name::Text($crate::message::codes::fields(&fields)?),
                    $(
                        $code => {
                            let ($( $( $field, )+ )?): ($( $( $type, )+ )?) =
                                $crate::message::codes::fields(&fields)?;
                            $name::$variant $({ $( $field ),+ })?
                        }
                    )+
                    _ => $name::Other(code, fields),
                })
            }
        }
    };
}
pub(super) use codes;

/// The fields of a code that this program knows, and nothing more.
pub(super) fn fields<T>(bytes: &Blob) -> Result<T, DecodeError>
where
    T: for<'de> BorrowDecode<'de, Bytes>,
{
    wire::decode(&bytes.0).map_err(|error| DecodeError::OtherString(error.to_string()))
}
