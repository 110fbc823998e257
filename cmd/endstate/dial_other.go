//go:build !linux

package main

import "syscall"

func giveUp(string, string, syscall.RawConn) error { return nil }
