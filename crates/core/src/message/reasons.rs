//! Why something was not done, as codes.

use super::Rejection;
use super::codes::codes;
use crate::gc_epoch::{GcEpoch, MAX_PURGEABLE_KEYS};

codes! {
    /// What has a limit that [`Rejection::Busy`] reports of.
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
        /// Their size.
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
    /// A number with a limit that [`Rejection::Limit`] reports of.
    pub enum Measure {
        /// Of all siblings of a key.
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
        /// Nodes of a tree that are asked about at a time.
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
    /// Which number of replicas [`Rejection::Quorum`] reports of.
    pub enum QuorumName {
        /// R.
        #[error("r")]
        Read = 1,
        /// W.
        #[error("w")]
        Write = 2,
    }
}

codes! {
    /// Why a member does not agree to the next GC epoch of a partition.
    pub enum NotYet {
        /// Only the first owner proposes.
        #[error("it is not up to that node to propose for partition {partition}")]
        NotProposer {
            /// The partition.
            partition: u16,
        } = 1,
        /// Too many keys are to be purgeable.
        #[error("{keys} keys at a time: the limit is {MAX_PURGEABLE_KEYS}")]
        TooManyKeys {
            /// So many.
            keys: u64,
        } = 2,
        /// It is at another GC epoch than the one that is to end.
        #[error("it is at GC epoch {own}, not at {proposed}")]
        GcState {
            /// Its own.
            own: GcEpoch,
            /// The one of the proposal.
            proposed: GcEpoch,
        } = 3,
        /// The lists of members differ.
        #[error("it knows other members")]
        Members = 4,
        /// The GC epoch before is not ended there.
        #[error("it is not done with what was purged before")]
        AtWork = 5,
        /// It keeps hints that are older than the GC epoch.
        #[error("it keeps {hints} hints of an older generation")]
        OldHints {
            /// So many.
            hints: u64,
        } = 6,
        /// A put in its queues may issue again what is to be purgeable.
        #[error("a put that was sent to several nodes waits here")]
        RepeatedPut = 7,
        /// Its replica could not note what is purgeable.
        #[error("{rejection}")]
        Refused {
            /// Why.
            rejection: Rejection,
        } = 8,
    }
}

codes! {
    /// What holds back the collection of a partition's tombstones. Members are named.
    pub enum Blocked {
        /// Members have not answered a proposal.
        #[error("no answer from {}", .members.join(", "))]
        NoAnswer {
            /// They.
            members: Vec<String>,
        } = 1,
        /// The first owner, which proposes, is away.
        #[error("{member} is away, and is to propose it")]
        ProposerAway {
            /// The first owner.
            member: String,
        } = 2,
        /// A member that has to agree is away.
        #[error("{member} is away")]
        Away {
            /// The member.
            member: String,
        } = 3,
        /// The proposer has lost its disk, or has an old one.
        #[error("this node has not got back all that it lost")]
        NotRecovered = 4,
        /// The proposer has not read the partition, or the GC epoch before is not ended there.
        #[error("this node is still reading")]
        Reading = 5,
        /// A member does not agree.
        #[error("{member}: {why}")]
        NotYet {
            /// The member.
            member: String,
            /// Why.
            why: NotYet,
        } = 6,
    }
}

codes! {
    /// What a peer answered to a question about a Merkle tree.
    pub enum TreeAnswer {
        /// The roots are the same.
        #[error("yes")]
        Equal = 1,
        /// Children of nodes.
        #[error("list of summaries")]
        Summaries = 2,
        /// Keys of leaves.
        #[error("list of keys")]
        Items = 3,
        /// Something else.
        #[error("word of another kind")]
        Else = 4,
    }
}

codes! {
    /// What a comparison waited for.
    pub enum TreeQuestion {
        /// Summaries, or that the roots are the same.
        #[error("summaries")]
        Summaries = 1,
        /// Keys of leaves.
        #[error("keys")]
        Items = 2,
        /// Nothing of the peer.
        #[error("nothing")]
        Nothing = 3,
    }
}

codes! {
    /// Why a comparison of a partition with another owner of it failed.
    pub enum ComparisonFault {
        /// The peer refused a question.
        #[error("{rejection}")]
        Refused {
            /// Why.
            rejection: Rejection,
        } = 1,
        /// It answered another question.
        #[error("a {answer} in answer to a question for {question}")]
        OddAnswer {
            /// What it answered.
            answer: TreeAnswer,
            /// What it was asked.
            question: TreeQuestion,
        } = 2,
        /// Too many summaries, or too few.
        #[error("{given} bytes of summaries where {expected} are due")]
        Summaries {
            /// Bytes that came.
            given: u64,
            /// Bytes of all children.
            expected: u64,
        } = 3,
        /// This node reads the partition anew.
        #[error("the own tree is gone")]
        NoTree = 4,
        /// The peer broke the rules of a list.
        #[error("keys that were not asked for, or out of order")]
        OddKeys = 5,
        /// The peer was silent.
        #[error("no answer in {ms} ms")]
        NoAnswer {
            /// For so long, in milliseconds.
            ms: u64,
        } = 6,
        /// Objects could not be read at one end or written at the other.
        #[error("{objects} objects")]
        Objects {
            /// So many.
            objects: u64,
        } = 7,
    }
}
