//! What happens where an engine cannot do its work: another does, and it is counted with its cause.
