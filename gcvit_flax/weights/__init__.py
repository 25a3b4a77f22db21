"""Weight files to parameter trees and back, and model folders."""
