package rig

// PowerCutPlants are the planted bugs that only a power cut shows: the kernel keeps what a killed process wrote, in the
// order in which it was written, synced or not. The suite that cuts the power proves that it notices each.
func PowerCutPlants() []string {
	return []string{"journal-not-synced", "checkpoint-first", "index-not-synced", "claim-not-synced", "dir-not-synced"}
}
