package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// tlsFiles are those with what a destination needs beside the system's authorities. Databases have parameters of their URL for
// it: sslrootcert, sslcert and sslkey.
type tlsFiles struct{ ca, cert, key string }

func (f *tlsFiles) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.ca, "to-ca", os.Getenv(toEnv+"_CA"), "TLS: `FILE` with the authorities (PEM) that the destination's certificate may come from, instead of the system's; default: $"+toEnv+"_CA")
	flags.StringVar(&f.cert, "to-cert", os.Getenv(toEnv+"_CERT"), "TLS: `FILE` with our certificate (PEM); default: $"+toEnv+"_CERT")
	flags.StringVar(&f.key, "to-key", os.Getenv(toEnv+"_KEY"), "TLS: `FILE` with our certificate's key (PEM); default: that of --to-cert, else $"+toEnv+"_KEY")
}

// config is nil where no file is given.
func (f *tlsFiles) config() (*tls.Config, error) {
	if *f == (tlsFiles{}) {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		content, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--to-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(content) {
			return nil, errors.New("--to-ca: there is no certificate in it")
		}
	}
	var err error
	cfg.Certificates, err = keyPair("--to", f.cert, f.key)
	return cfg, err
}

// keyPair reads the certificate of the flags that begin like this, if there is one.
func keyPair(flags, cert, key string) ([]tls.Certificate, error) {
	switch {
	case cert == "" && key != "":
		return nil, fmt.Errorf("%s-key needs %[1]s-cert, the certificate that the key is for", flags)
	case cert == "":
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, cmp.Or(key, cert))
	if err != nil {
		return nil, fmt.Errorf("%s-cert, %[1]s-key: %[2]w", flags, err)
	}
	return []tls.Certificate{pair}, nil
}
