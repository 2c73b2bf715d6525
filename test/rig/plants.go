package rig

import "os"

// PowerCutPlants are the planted bugs that only a power cut shows: the kernel keeps what a killed process wrote, in the
// order in which it was written, synced or not. The suite that cuts the power proves that it notices each.
func PowerCutPlants() []string {
	return []string{"journal-not-synced", "checkpoint-first", "index-not-synced", "claim-not-synced", "dir-not-synced"}
}

// MutantVar names the environment variable with a planted bug that tests are to take for stoker's own: they must end red.
const MutantVar = "STOKER_MUTANT"

// Mutant is the planted bug that tests are to take for stoker's own, "" for none.
func Mutant() string { return os.Getenv(MutantVar) }
