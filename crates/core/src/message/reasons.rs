//! Reasons, as codes, why something was not done.

use super::Rejection;
use super::codes::codes;
use crate::gc_epoch::{GcEpoch, MAX_PURGEABLE_KEYS};

codes! {
    /// The limited resource that [`Rejection::Busy`] reports.
    pub enum Resource {
        /// Calls of one client.
        #[error("calls in progress on this connection")]
        ConnectionCalls = 1,
        /// Calls of all clients.
        #[error("calls in progress on this node")]
        NodeCalls = 2,
        /// Memory for replies to one client.
        #[error("bytes of replies that have not been read")]
        UnreadReplies = 3,
        /// Connections of clients: this one is for the operator and takes no requests for data.
        #[error("clients of this node (this is a place for commands of the operator)")]
        Clients = 4,
        /// The same, of one address.
        #[error("clients from {address} (this is a place for commands of the operator)")]
        AddressClients {
            /// The address, or the network.
            address: String,
        } = 5,
        /// Requests that a node coordinates or has forwarded.
        #[error("requests in progress at this node")]
        Requests = 6,
        /// The node's disk hangs: nothing waits for it. The limit is in milliseconds.
        #[error("the time in ms that the node's disk takes to answer")]
        DiskTime = 7,
        /// Writes that are not synced.
        #[error("what waits for the node's disk")]
        UnsyncedWrites = 8,
        /// Total size of the writes that are not synced, in bytes.
        #[error("bytes that wait for the node's disk")]
        UnsyncedBytes = 9,
        /// Work for all keys.
        #[error("the node's queue")]
        NodeQueue = 10,
        /// Work for one key.
        #[error("the key's queue")]
        KeyQueue = 11,
        /// Lists for anti-entropy that are being read.
        #[error("lists of keys read for peers")]
        PeerLists = 12,
        /// Puts whose dots follow from their write ids, on a disk that may be an old one.
        #[error("repeated puts before a peer has confirmed that this disk is the newest")]
        UnwitnessedPuts = 13,
    }
}

codes! {
    /// The limited number that [`Rejection::Limit`] reports.
    pub enum Measure {
        /// Encoded bytes of all siblings of a key.
        #[error("bytes of the key's siblings")]
        SiblingBytes = 1,
        /// Actors that a key's clock knows.
        #[error("entries of the key's clock")]
        ClockEntries = 2,
        /// Bytes of a summary of a Merkle tree.
        #[error("width")]
        Width = 3,
        /// A level of a tree.
        #[error("level")]
        Level = 4,
        /// Nodes of a tree in one question.
        #[error("nodes")]
        Nodes = 5,
        /// A node of a tree.
        #[error("node")]
        Node = 6,
        /// A leaf of a tree.
        #[error("leaf")]
        Leaf = 7,
    }
}

codes! {
    /// The number of replicas that [`Rejection::Quorum`] reports.
    pub enum QuorumName {
        /// R, the replicas that answer a read.
        #[error("r")]
        Read = 1,
        /// W, the replicas that hold a write.
        #[error("w")]
        Write = 2,
    }
}

codes! {
    /// Why a member does not agree to the next GC epoch of a partition.
    pub enum NotYet {
        /// The proposal is not from the partition's first owner, which alone proposes.
        #[error("it is not up to that node to propose for partition {partition}")]
        NotProposer {
            /// The partition of the proposal.
            partition: u16,
        } = 1,
        /// The proposal has too many purgeable keys.
        #[error("{keys} keys at a time: the limit is {MAX_PURGEABLE_KEYS}")]
        TooManyKeys {
            /// The number of keys in the proposal.
            keys: u64,
        } = 2,
        /// It is at another GC epoch than the one that is to end.
        #[error("it is at GC epoch {own}, not at {proposed}")]
        GcState {
            /// The GC epoch of the member that refuses.
            own: GcEpoch,
            /// The GC epoch that the proposal would end.
            proposed: GcEpoch,
        } = 3,
        /// The lists of members differ.
        #[error("it knows other members")]
        Members = 4,
        /// The member has not finished the purge of the previous GC epoch, or is busy with other
        /// partitions.
        #[error("it is not done with what was purged before")]
        AtWork = 5,
        /// It keeps hints that are older than the GC epoch.
        #[error("it keeps {hints} hints of an older GC epoch")]
        OldHints {
            /// The number of hints of older GC epochs that it keeps for the partition.
            hints: u64,
        } = 6,
        /// A put in the member's queues may issue a purgeable dot again.
        #[error("a put that was sent to several nodes waits here")]
        RepeatedPut = 7,
        /// The member's replica could not mark the purgeable events as dead.
        #[error("{rejection}")]
        Refused {
            /// The rejection by that replica.
            rejection: Rejection,
        } = 8,
    }
}

codes! {
    /// The reason why tombstone GC of a partition does not progress. Members are named.
    pub enum Blocked {
        /// Members have not answered a proposal.
        #[error("no answer from {}", .members.join(", "))]
        NoAnswer {
            /// The names of the members without an answer.
            members: Vec<String>,
        } = 1,
        /// The first owner, which proposes, is away.
        #[error("{member} is away, and is to propose it")]
        ProposerAway {
            /// The name of the partition's first owner.
            member: String,
        } = 2,
        /// A member that has to agree is away.
        #[error("{member} is away")]
        Away {
            /// The name of a member that has to agree.
            member: String,
        } = 3,
        /// The proposer has lost its disk, or has an old one, and is not rebuilt yet.
        #[error("this node has not got back all that it lost")]
        NotRecovered = 4,
        /// The proposer has not read the partition, or has not finished the purge of the previous
        /// GC epoch.
        #[error("this node is still reading")]
        Reading = 5,
        /// A member does not agree.
        #[error("{member}: {why}")]
        NotYet {
            /// The name of the member that does not agree.
            member: String,
            /// The reason that the member gave.
            why: NotYet,
        } = 6,
    }
}

codes! {
    /// The kind of a peer's answer to a question about a Merkle tree.
    pub enum TreeAnswer {
        /// The roots are the same.
        #[error("yes")]
        Equal = 1,
        /// The summaries of the children of nodes.
        #[error("list of summaries")]
        Summaries = 2,
        /// The keys of leaves, with their contexts.
        #[error("list of keys")]
        Items = 3,
        /// A message of another kind, which answers no question about a tree.
        #[error("word of another kind")]
        Else = 4,
        /// The records of leaves.
        #[error("list of records")]
        Records = 5,
    }
}

codes! {
    /// The kind of answer that a comparison waited for.
    pub enum TreeQuestion {
        /// Summaries, or that the roots are the same.
        #[error("summaries")]
        Summaries = 1,
        /// The keys of leaves, with their contexts.
        #[error("keys")]
        Items = 2,
        /// No answer: the peer was not queried.
        #[error("nothing")]
        Nothing = 3,
        /// The records of leaves.
        #[error("records")]
        Records = 4,
    }
}

codes! {
    /// Why a comparison of a partition with another owner of it failed.
    pub enum ComparisonFault {
        /// The peer refused a question.
        #[error("{rejection}")]
        Refused {
            /// The rejection that the peer gave.
            rejection: Rejection,
        } = 1,
        /// The peer's answer does not fit the question.
        #[error("a {answer} in answer to a question for {question}")]
        OddAnswer {
            /// The kind of the answer that came.
            answer: TreeAnswer,
            /// The kind of answer that was expected.
            question: TreeQuestion,
        } = 2,
        /// Too many summaries, or too few.
        #[error("{given} bytes of summaries where {expected} are due")]
        Summaries {
            /// Bytes of summaries in the answer.
            given: u64,
            /// Bytes that the summaries of all children have.
            expected: u64,
        } = 3,
        /// This node's own tree is gone: it reads the partition again.
        #[error("the own tree is gone")]
        NoTree = 4,
        /// The peer broke the rules of a list.
        #[error("keys that were not asked for, or out of order")]
        OddKeys = 5,
        /// The peer was silent.
        #[error("no answer in {ms} ms")]
        NoAnswer {
            /// How long this node waited for an answer, in milliseconds.
            ms: u64,
        } = 6,
        /// Objects could not be read at one end or written at the other.
        #[error("{objects} objects")]
        Objects {
            /// The number of such objects in this comparison.
            objects: u64,
        } = 7,
    }
}
