// Package isnil looks into interfaces for a nil.
package isnil

import "reflect"

// Any reports whether v is nil, or holds a nil pointer, function, channel or map: calling its methods would panic, or wait forever.
func Any(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Chan, reflect.Map:
		return r.IsNil()
	}
	return false
}
