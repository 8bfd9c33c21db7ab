//! What a node counts since its start, as codes.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::Kind;

macro_rules! counters {
    ($($code:literal $variant:ident $name:literal,)+) => {
        /// A counter of events. Each has a number on the wire, which never changes, and a name for
        /// people. A new one gets the next number, whatever its place in the order of the names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter {
            $(
                #[doc = concat!("`", $name, "`.")]
                $variant,
            )+
            /// A number of a later program, which this one has no name for.
            Other(u16),
        }

        impl Counter {
            /// All counters that this program knows, in the order of their names.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant),+];

            /// The number on the wire.
            pub fn code(self) -> u16 {
                match self {
                    $( Counter::$variant => $code, )+
                    Counter::Other(code) => code,
                }
            }

            /// The one with this number.
            pub fn of_code(code: u16) -> Self {
                match code {
                    $( $code => Counter::$variant, )+
                    _ => Counter::Other(code),
                }
            }

            /// The name in metrics, the status and the docs.
            pub fn name(self) -> &'static str {
                match self {
                    $( Counter::$variant => $name, )+
                    Counter::Other(_) => "counted_by_a_later_program",
                }
            }
        }
    };
}

counters! {
    1 AgedHintsOffered "aged_hints_offered",
    3 BytesPulled "bytes_pulled",
    4 BytesPushed "bytes_pushed",
    5 CallsRefusedBusy "calls_refused_busy",
    6 ClientConnectionsClosed "client_connections_closed",
    7 ComparisonsRefused "comparisons_refused",
    8 DamagedHintsMadeAnew "damaged_hints_made_anew",
    9 DamagedHintsRead "damaged_hints_read",
    10 DamagedRecordsFound "damaged_records_found",
    11 DamagedRecordsRead "damaged_records_read",
    12 DamagedRecordsRestored "damaged_records_restored",
    13 DeletesAcknowledged "deletes_acknowledged",
    14 DifferencesUnexplained "differences_unexplained",
    15 EmulatedCut "emulated_cut",
    16 EmulatedDelayed "emulated_delayed",
    17 EmulatedDropped "emulated_dropped",
    18 EmulatedOverflowed "emulated_overflowed",
    19 Exchanges "exchanges",
    20 ExchangesFailed "exchanges_failed",
    21 ExchangesPutOff "exchanges_put_off",
    73 FallbacksQueried "fallbacks_asked",
    22 ForgedGcEpochsRefused "forged_gc_epochs_refused",
    23 ForgedIncarnationsRefused "forged_incarnations_refused",
    24 GcEpochsAdopted "gc_epochs_adopted",
    25 GcEpochsBegun "gc_epochs_begun",
    26 GetsAnswered "gets_answered",
    27 GossipOfStrangers "gossip_of_strangers",
    28 GossipOverTheLimit "gossip_over_the_limit",
    29 GossipRounds "gossip_rounds",
    30 HandoffsBegun "handoffs_begun",
    31 HintsChangedInFlight "hints_changed_in_flight",
    32 HintsDeclined "hints_declined",
    33 HintsDeleted "hints_deleted",
    34 HintsKept "hints_kept",
    35 HintsRefused "hints_refused",
    36 HintsSent "hints_sent",
    37 KeysPurged "keys_purged",
    38 ListingsAnswered "listings_answered",
    39 MergesDeclined "merges_declined",
    83 MessagesOfOtherRings "messages_of_other_rings",
    40 MessagesOfStrangersIgnored "messages_of_strangers_ignored",
    41 ObjectsPulled "objects_pulled",
    42 ObjectsPushed "objects_pushed",
    43 OldDisksDiscarded "old_disks_discarded",
    44 OrdersOfOthersIgnored "orders_of_others_ignored",
    45 OutlivedHintsDropped "outlived_hints_dropped",
    46 OwnIncarnationRaised "own_incarnation_raised",
    47 OwnPausesNoticed "own_pauses_noticed",
    88 PagesFetched "pages_fetched",
    48 PartitionsReadAtStart "partitions_read_at_start",
    84 PartitionsReleased "partitions_released",
    49 PeerBytesOfAcks "peer_bytes_of_acks",
    50 PeerBytesOfAnswers "peer_bytes_of_answers",
    51 PeerBytesOfGossip "peer_bytes_of_gossip",
    52 PeerBytesOfOthers "peer_bytes_of_others",
    53 PeerBytesOfReads "peer_bytes_of_reads",
    54 PeerBytesOfRepair "peer_bytes_of_repair",
    55 PeerBytesOfWrites "peer_bytes_of_writes",
    56 PeerBytesSent "peer_bytes_sent",
    57 PutsAcknowledged "puts_acknowledged",
    2 ReadEligibilityRegained "read_eligibility_regained",
    58 ReadsCutShort "reads_cut_short",
    59 ReadsHedged "reads_hedged",
    60 ReadsOfFallbacks "reads_of_fallbacks",
    61 ReadsRepaired "reads_repaired",
    85 RecordsErased "records_erased",
    62 RecordsScrubbed "records_scrubbed",
    64 ReplicaOperationsRefused "replica_operations_refused",
    65 RequestsCoordinatedForPeers "requests_coordinated_for_peers",
    66 RequestsForwarded "requests_forwarded",
    67 RequestsRefused "requests_refused",
    68 RequestsTakenOver "requests_taken_over",
    69 RingChangesGranted "ring_changes_granted",
    86 RingOrdersRefused "ring_orders_refused",
    70 RingsOfStrangersTaken "rings_of_strangers_taken",
    87 RingsTaken "rings_taken",
    72 StaleObjectsRefused "stale_objects_refused",
    74 TreesBuilt "trees_built",
    75 TreesConfirmed "trees_confirmed",
    76 TreesReadAnew "trees_read_anew",
    77 TreesTakenOver "trees_taken_over",
    78 TreesWrong "trees_wrong",
    79 WritesCoordinatedByAFallback "writes_coordinated_by_a_fallback",
    80 WritesHedged "writes_hedged",
    81 WritesUnknown "writes_unknown",
    82 WritesWithdrawn "writes_withdrawn",
}

impl Counter {
    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Counter::ALL.iter().copied().find(|counter| counter.name() == name)
    }

    /// Bytes of messages of a kind to other members.
    pub fn peer_bytes_of(kind: Kind) -> Self {
        match kind {
            Kind::Write => Counter::PeerBytesOfWrites,
            Kind::Ack => Counter::PeerBytesOfAcks,
            Kind::Read => Counter::PeerBytesOfReads,
            Kind::Answer => Counter::PeerBytesOfAnswers,
            Kind::Gossip => Counter::PeerBytesOfGossip,
            Kind::Repair => Counter::PeerBytesOfRepair,
            Kind::Other => Counter::PeerBytesOfOthers,
        }
    }
}

impl Encode for Counter {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.code().encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Counter {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        u16::borrow_decode(decoder).map(Counter::of_code)
    }
}
