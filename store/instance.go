package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/bbolt"

	"stoker/store/durable"
)

// instanceFile keeps this stoker's id beside the database, because it names the claims' folder: a database that is made
// anew must find them.
const instanceFile = "instance"

// readInstance returns the id that the file keeps, or "" if there is none that can be read.
func readInstance(dir string) (string, error) {
	b, err := durable.ReadFile(durable.Local{}, filepath.Join(dir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read instance: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if _, err := ulid.ParseStrict(id); err != nil {
		return "", nil
	}
	return id, nil
}

// loadInstance reads the id from the database.
func (s *Store) loadInstance() error {
	return s.view(func(tx *bbolt.Tx) error {
		id := tx.Bucket(bucketInfo).Get(keyInstance)
		if id == nil {
			return fmt.Errorf("open state db %s: %w: the instance is missing", s.db.Path(), ErrDamagedDB)
		}
		s.instance = string(id)
		return nil
	})
}

// keepInstance makes the file say what the database says. It is there before the first file is claimed.
func (s *Store) keepInstance() error {
	if kept, err := readInstance(s.dir); err != nil || kept == s.instance {
		return err
	}
	return durable.WriteFile(durable.Local{}, filepath.Join(s.dir, instanceFile), []byte(s.instance+"\n"), 0o600)
}
