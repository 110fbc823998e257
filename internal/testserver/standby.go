package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// StartStandby starts a hot standby of a running server, with the same settings: it replays what the server does, and
// answers queries that write nothing. The copy is made by the server's functions for backups, since not everybody who has a
// server has pg_basebackup.
func (p *Postgres) StartStandby() (*Postgres, error) {
	place, err := newPlace("postgres", false)
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: p.bin, place: place, settings: p.settings}
	err = p.backUp(s)
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// backUp makes s's data folder a copy of the running server's, as that of a standby.
func (p *Postgres) backUp(s *Postgres) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return fmt.Errorf("testserver: begin a backup: %w", err)
	}
	defer conn.Close(ctx) // who stays connected until the backup's end
	begin, end := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if conn.PgConn().ParameterStatus("server_version") < "15" { // versions with one digit are long gone
		begin, end = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return fmt.Errorf("testserver: begin a backup: %w", err)
	}
	if err := s.place.copyFolder(s.Data(), p.Data()); err != nil {
		return fmt.Errorf("testserver: copy a data folder: %w", err)
	}
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return fmt.Errorf("testserver: end a backup: %w", err)
	}
	primary := strings.ReplaceAll(p.URL(), "'", "''")
	for name, text := range map[string]string{
		"backup_label":         label,
		"standby.signal":       "",
		"postgresql.auto.conf": "primary_conninfo = '" + primary + "'\n",
	} {
		if err := s.place.write(filepath.Join(s.Data(), name), strings.NewReader(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// copyFolder copies what is in a folder of a server that runs: files may come and go meanwhile.
func (p *place) copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != from {
			return nil
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		into := filepath.Join(to, relative)
		switch {
		case entry.IsDir():
			return errors.Join(os.Mkdir(into, 0o700), p.own(into))
		case strings.HasPrefix(relative, "postmaster."), !entry.Type().IsRegular():
			return nil
		}
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close()
		return p.write(into, file, 0o600)
	})
}

func (p *place) write(path string, text io.Reader, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, text)
	return errors.Join(err, file.Close(), p.own(path))
}

// own hands a file over to the place's user.
func (p *place) own(path string) error {
	if p.user == nil {
		return nil
	}
	return os.Chown(path, int(p.user.Uid), int(p.user.Gid))
}
